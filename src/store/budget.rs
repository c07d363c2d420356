//! How much memory a model and its conversation may take: what was asked for and what the system can spare in, bytes out.

use std::fmt;

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
    /// More was asked for, so many bytes; this is what can be spared.
    Limited(u64),
    /// What the machine and its limits can spare.
    Spare,
    /// The system does not say what it has: there is no limit.
    Unknown,
}

impl Budget {
    /// No limit.
    pub const UNKNOWN: Budget = Budget { bytes: u64::MAX, source: BudgetSource::Unknown };

    /// `asked`: what the person wants to be kept to; `spare`: what [`super::System::spare`] says. More than there is would
    /// end in being killed for memory, so it is cut to what can be spared.
    pub fn new(asked: Option<u64>, spare: Option<u64>) -> Budget {
        let (bytes, source) = match (asked, spare) {
            (Some(asked), Some(spare)) if asked > spare => (spare, BudgetSource::Limited(asked)),
            (Some(asked), _) => (asked, BudgetSource::Asked),
            (None, Some(spare)) => (spare, BudgetSource::Spare),
            (None, None) => return Budget::UNKNOWN,
        };
        Budget { bytes, source }
    }

    /// `None` where there is no limit.
    pub fn known(&self) -> Option<u64> {
        (self.source != BudgetSource::Unknown).then_some(self.bytes)
    }
}

/// Bytes in MiB, rounded up, as `--ram` takes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mebibytes(pub u64);

impl fmt::Display for Mebibytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB", self.0.div_ceil(1 << 20))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_counts_up_to_what_can_be_spared() {
        assert_eq!(Budget::new(Some(10), Some(40)), Budget { bytes: 10, source: BudgetSource::Asked });
        assert_eq!(Budget::new(Some(60), Some(40)), Budget { bytes: 40, source: BudgetSource::Limited(60) });
        assert_eq!(Budget::new(Some(60), None), Budget { bytes: 60, source: BudgetSource::Asked });
        assert_eq!(Budget::new(None, Some(40)), Budget { bytes: 40, source: BudgetSource::Spare });
        assert_eq!(Budget::new(None, None).known(), None);
    }
}
