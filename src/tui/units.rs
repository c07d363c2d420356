//! Numbers as people read them: bytes, counts, rates and times in, short text out. A number that is not known is the word
//! "unknown".

use std::time::Duration;

pub const UNKNOWN: &str = "unknown";

/// `known`, formatted, or "unknown".
pub fn or_unknown<T>(known: Option<T>, format: impl Fn(T) -> String) -> String {
    known.map_or_else(|| UNKNOWN.into(), format)
}

/// Bytes in binary units with three digits: `17.3 GiB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut value = n as f64;
    let mut unit = "B";
    for u in UNITS {
        value /= 1024.0;
        unit = u;
        if value < 999.5 {
            break;
        }
    }
    format!("{} {unit}", three_digits(value))
}

/// A count with at most four characters: `412`, `18.4k`, `2.1M`.
pub fn count(n: u64) -> String {
    match n {
        0..=9999 => n.to_string(),
        10_000..=999_499 => format!("{}k", three_digits(n as f64 / 1e3)),
        999_500..=999_499_999 => format!("{}M", three_digits(n as f64 / 1e6)),
        _ => format!("{}B", three_digits(n as f64 / 1e9)),
    }
}

/// Parameters of a model: `30.5B`.
pub fn parameters(n: u64) -> String {
    match n {
        0 => UNKNOWN.into(),
        1..=999_499_999 => format!("{}M", three_digits(n as f64 / 1e6)),
        _ => format!("{}B", three_digits(n as f64 / 1e9)),
    }
}

/// Tokens a second: `5.31`.
pub fn speed(per_second: f64) -> String {
    three_digits(per_second)
}

/// `done` of `total` in percent; `None` where there is nothing to do.
pub fn percent(done: u64, total: u64) -> Option<u64> {
    (total > 0).then(|| (u128::from(done.min(total)) * 100 / u128::from(total)) as u64)
}

/// A time: `8 s`, `2 min 05 s`, `1 h 02 min`.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..=59 => format!("{seconds} s"),
        60..=3599 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// Seconds with what precision they deserve: `0.42 s`, `12.5 s`, `2 min 05 s`.
pub fn seconds(s: f64) -> String {
    if s < 60.0 { format!("{} s", three_digits(s.max(0.0))) } else { duration(Duration::from_secs_f64(s)) }
}

/// `1 line`, `2 lines`.
pub fn plural(n: usize, word: &str) -> String {
    format!("{n} {word}{}", if n == 1 { "" } else { "s" })
}

fn three_digits(value: f64) -> String {
    match value {
        v if v >= 99.95 => format!("{v:.0}"),
        v if v >= 9.995 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

/// A time of a second or less, mostly.
pub fn milliseconds(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1e3;
    match ms {
        0.0..9.95 => format!("{ms:.1} ms"),
        9.95..9999.5 => format!("{ms:.0} ms"),
        _ => seconds(ms / 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_three_digits_and_a_unit() {
        for (n, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (18_556_685_824, "17.3 GiB"),
            (1024 * 1024 - 1, "1.00 MiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(n), text);
        }
    }

    #[test]
    fn counts_are_short() {
        for (n, text) in
            [(0, "0"), (9999, "9999"), (18_402, "18.4k"), (999_499, "999k"), (999_500, "1.00M"), (2_100_000, "2.10M")]
        {
            assert_eq!(count(n), text);
        }
        assert_eq!(parameters(30_532_122_624), "30.5B");
        assert_eq!(parameters(135_000_000), "135M");
    }

    #[test]
    fn what_is_not_known_says_so() {
        assert_eq!(or_unknown(None, bytes), "unknown");
        assert_eq!(or_unknown(Some(2048), bytes), "2.00 KiB");
        assert_eq!(parameters(0), "unknown");
        assert_eq!(percent(1, 0), None);
        assert_eq!(percent(u64::MAX, u64::MAX), Some(100));
    }

    #[test]
    fn times_grow_coarser() {
        assert_eq!(seconds(0.4249), "0.42 s");
        assert_eq!(seconds(12.51), "12.5 s");
        assert_eq!(seconds(125.0), "2 min 05 s");
        assert_eq!(duration(Duration::from_secs(3725)), "1 h 02 min");
    }
}
