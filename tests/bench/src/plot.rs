//! The loads as a picture: for each module a row of marks, the time in proportion to ext4's.

use std::fmt::Write;

use crate::loads::{Case, Loads};
use crate::peers::{BASE, IN_MEMORY, PASSTHROUGH, PLAIN};

const PEERS: [(&str, &str, &str); 7] = [
    (PLAIN, "#d62728", "wasmfs"),
    (PASSTHROUGH, "#9467bd", "wasmfs --passthrough"),
    (IN_MEMORY, "#e377c2", "wasmfs --in-memory --passthrough"),
    ("EROFS", "#2ca02c", "EROFS"),
    ("SquashFS", "#8c8c2a", "SquashFS"),
    ("read + deserialize", "#1f77b4", "read + deserialize"),
    ("wasmtime's cache", "#444444", "wasmtime's cache"),
];
const ROW: f64 = 26.0;
const LEFT: f64 = 170.0;
const WIDTH: f64 = 560.0;
/// From 0.5 to 1,000 times ext4.
const RANGE: (f64, f64) = (0.5, 1000.0);

fn x(ratio: f64) -> f64 {
    let at = |r: f64| r.clamp(RANGE.0, RANGE.1).ln();
    LEFT + WIDTH * (at(ratio) - at(RANGE.0)) / (at(RANGE.1) - at(RANGE.0))
}

/// An SVG of warm and cold loads.
pub fn loads(loads: &[Loads]) -> String {
    let panels = [(Case::Warm, "Warm load"), (Case::Cold, "Cold load and first call")];
    let panel_height = ROW * loads.len() as f64 + 70.0;
    let height = panel_height * panels.len() as f64 + 60.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"780\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (number, (case, title)) in panels.into_iter().enumerate() {
        let top = number as f64 * panel_height + 50.0;
        let bottom = top + ROW * loads.len() as f64;
        let _ = writeln!(
            svg,
            "<text x=\"{LEFT}\" y=\"{}\" font-weight=\"bold\">{title}: time in proportion to ext4's</text>",
            top - 26.0
        );
        for tick in [0.5, 1.0, 2.0, 5.0, 10.0, 100.0, 1000.0] {
            let (at, color) = (x(tick), if tick == 1.0 { "#000" } else { "#ddd" });
            let _ = writeln!(
                svg,
                "<line x1=\"{at:.1}\" y1=\"{top}\" x2=\"{at:.1}\" y2=\"{bottom}\" stroke=\"{color}\"/>\
                 <text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\" fill=\"#555\">{tick}</text>",
                top - 6.0
            );
        }
        for (row, load) in loads.iter().enumerate() {
            let y = top + ROW * (row as f64 + 0.5);
            let _ = writeln!(
                svg,
                "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{} ({})</text>",
                LEFT - 10.0,
                y + 4.0,
                load.module,
                crate::stats::size(load.bytes)
            );
            let times = load.times.get(&case);
            let of = |peer| times.and_then(|times| times.get(peer)).map(|t| t.median);
            let Some(base) = of(BASE) else { continue };
            for (peer, color, _) in PEERS.into_iter().rev() {
                if let Some(median) = of(peer) {
                    let at = x(median / base);
                    let _ = writeln!(
                        svg,
                        "<circle cx=\"{at:.1}\" cy=\"{y}\" r=\"5\" fill=\"{color}\" fill-opacity=\"0.8\"/>"
                    );
                }
            }
        }
    }
    for (number, (_, color, label)) in PEERS.into_iter().enumerate() {
        let (at, y) =
            (20.0 + 190.0 * (number % 4) as f64, height - 36.0 + 20.0 * (number / 4) as f64);
        let _ = writeln!(
            svg,
            "<circle cx=\"{at}\" cy=\"{y}\" r=\"5\" fill=\"{color}\"/><text x=\"{}\" y=\"{}\">{label}</text>",
            at + 10.0,
            y + 4.0
        );
    }
    svg.push_str("</svg>\n");
    svg
}
