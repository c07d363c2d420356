//! How much memory a model and its conversation may take: what was asked for and what the system has in, bytes out.

use std::fmt;

use super::system::Memory;

/// The share of available memory that is left to the system, and the least.
const SYSTEM_SHARE: u64 = 32;
const SYSTEM_BYTES: u64 = 32 << 20;

/// Bytes of memory to keep to, page cache of the model's files included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    pub bytes: u64,
    pub source: BudgetSource,
}

/// Where a budget comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BudgetSource {
    /// It was asked for.
    Asked,
    /// More was asked for, so many bytes; this is what is available.
    Limited(u64),
    /// What the machine and its limits leave, less what the system needs.
    Available,
    /// The system does not say what it has: there is no limit.
    Unknown,
}

impl Budget {
    /// `asked`: what the person wants to be kept to. More than there is would end in being killed for memory, so it is
    /// cut to what is available.
    pub fn new(asked: Option<u64>, memory: Option<Memory>) -> Budget {
        let (bytes, source) = match (asked, memory.map(|m| m.available)) {
            (Some(asked), Some(available)) if asked > available => (available, BudgetSource::Limited(asked)),
            (Some(asked), _) => (asked, BudgetSource::Asked),
            (None, Some(available)) => {
                (available.saturating_sub(available / SYSTEM_SHARE + SYSTEM_BYTES), BudgetSource::Available)
            }
            (None, None) => (u64::MAX, BudgetSource::Unknown),
        };
        Budget { bytes, source }
    }

    /// `None` where there is no limit.
    pub fn known(&self) -> Option<u64> {
        (self.source != BudgetSource::Unknown).then_some(self.bytes)
    }
}

/// Bytes in MiB, rounded up, as `--ram` takes them.
#[derive(Debug, Clone, Copy)]
pub struct Mebibytes(pub u64);

impl fmt::Display for Mebibytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB", self.0.div_ceil(1 << 20))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn what_is_asked_for_counts_up_to_what_is_there() {
        let memory = Some(Memory { total: 8 * GIB, available: 4 * GIB });
        let budget = |asked, memory| Budget::new(asked, memory);
        assert_eq!(budget(Some(GIB), memory), Budget { bytes: GIB, source: BudgetSource::Asked });
        assert_eq!(budget(Some(6 * GIB), memory), Budget { bytes: 4 * GIB, source: BudgetSource::Limited(6 * GIB) });
        assert_eq!(budget(Some(6 * GIB), None), Budget { bytes: 6 * GIB, source: BudgetSource::Asked });
        assert_eq!(
            budget(None, memory),
            Budget { bytes: 4 * GIB - (128 << 20) - (32 << 20), source: BudgetSource::Available }
        );
        assert_eq!(budget(None, None).known(), None);
        assert_eq!(budget(None, Some(Memory { total: GIB, available: 1 })).bytes, 0);
    }
}
