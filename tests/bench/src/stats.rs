//! Medians.

use std::time::Duration;

use serde::Serialize;

/// What came of measuring something several times, in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Times {
    pub rounds: usize,
    pub median: f64,
    pub lower_quartile: f64,
    pub upper_quartile: f64,
    pub p99: f64,
}

impl Times {
    pub fn of(times: &[Duration]) -> Times {
        let mut sorted: Vec<f64> = times.iter().map(|t| t.as_secs_f64() * 1e6).collect();
        sorted.sort_by(f64::total_cmp);
        let at = |part: f64| {
            let last = sorted.len().saturating_sub(1);
            sorted.get((last as f64 * part).round() as usize).copied().unwrap_or(f64::NAN)
        };
        Times {
            rounds: times.len(),
            median: at(0.5),
            lower_quartile: at(0.25),
            upper_quartile: at(0.75),
            p99: at(0.99),
        }
    }
}

/// Microseconds for people.
pub fn time(us: f64) -> String {
    match us {
        us if us < 100.0 => format!("{us:.1} us"),
        us if us < 1e3 => format!("{us:.0} us"),
        us if us < 1e4 => format!("{:.2} ms", us / 1e3),
        us if us < 1e6 => format!("{:.1} ms", us / 1e3),
        us => format!("{:.2} s", us / 1e6),
    }
}

/// Bytes for people.
pub fn size(bytes: u64) -> String {
    let mb = bytes as f64 / 1e6;
    match mb {
        mb if mb < 0.1 => format!("{:.1} kB", mb * 1e3),
        mb if mb < 10.0 => format!("{mb:.1} MB"),
        mb => format!("{mb:.0} MB"),
    }
}
