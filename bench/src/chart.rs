//! A chart of horizontal bars, as SVG: for each row a bar of each contender, from nothing to its ratio, with
//! a line at 1 for what they are compared with.

use std::fmt::Write as _;

use crate::report::Spread;

/// Widths of the image, of the names at its left and of the figures at its right.
const WIDTH: f64 = 860.0;
const NAMES: f64 = 220.0;
const FIGURES: f64 = 50.0;

/// Heights of a bar, of what lies between two rows, and of title and legend.
const BAR: f64 = 11.0;
const GAP: f64 = 9.0;
const HEAD: f64 = 64.0;

/// Of the contenders in turn: to be told apart in grey, and by those who confuse red and green.
const COLOURS: [&str; 5] = ["#0b5394", "#f1a340", "#998ec3", "#7fbf7b", "#bababa"];

/// The chart: a title, the contenders, and for each row a ratio of each of them, as far as it was measured.
pub fn bars(title: &str, contenders: &[&str], rows: &[(String, Vec<Option<Spread>>)]) -> String {
    let ratios = rows.iter().flat_map(|(_, bars)| bars.iter().flatten());
    let largest = ratios.map(|ratio| ratio.high).fold(1.0, f64::max);
    let scale = (WIDTH - NAMES - FIGURES) / largest;
    let height = rows
        .iter()
        .fold(HEAD + GAP, |sum, (_, bars)| sum + row_height(bars.len()));
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n\
         <text x=\"10\" y=\"20\" font-size=\"14\">{}</text>\n",
        escaped(title)
    );
    let mut add = |line: String| {
        svg.push_str(&line);
        svg.push('\n');
    };
    let step = (WIDTH - 20.0) / f64::from(u32::try_from(contenders.len().max(1)).unwrap_or(1));
    let mut x = 10.0;
    for (name, colour) in contenders.iter().zip(COLOURS.iter().cycle()) {
        add(format!(
            "<rect x=\"{x:.1}\" y=\"34\" width=\"12\" height=\"12\" fill=\"{colour}\"/>\
             <text x=\"{:.1}\" y=\"44\">{}</text>",
            x + 17.0,
            escaped(name)
        ));
        x += step.min(150.0);
    }
    let mut y = HEAD;
    for (name, bars) in rows {
        add(row(name, bars, y, scale));
        y += row_height(bars.len());
    }
    let one = NAMES + scale;
    add(format!(
        "<line x1=\"{one:.1}\" y1=\"{:.1}\" x2=\"{one:.1}\" y2=\"{y:.1}\" stroke=\"#000\" \
         stroke-dasharray=\"3 3\"/>\
         <text x=\"{one:.1}\" y=\"{:.1}\" text-anchor=\"middle\">1</text>",
        HEAD - 4.0,
        HEAD - 6.0
    ));
    svg.push_str("</svg>\n");
    svg
}

fn row_height(bars: usize) -> f64 {
    BAR * f64::from(u32::try_from(bars).unwrap_or(0)) + GAP
}

/// A name and its bars, each with its range and its figure.
fn row(name: &str, bars: &[Option<Spread>], top: f64, scale: f64) -> String {
    let middle = top + (row_height(bars.len()) - GAP) / 2.0 + 4.0;
    let mut svg = format!(
        "<text x=\"{:.1}\" y=\"{middle:.1}\" text-anchor=\"end\">{}</text>",
        NAMES - 8.0,
        escaped(name)
    );
    let mut y = top;
    for (bar, colour) in bars.iter().zip(COLOURS.iter().cycle()) {
        let text = y + BAR - 2.0;
        // Writing to a string does not fail.
        let _ = match bar {
            None => write!(
                svg,
                "<text x=\"{NAMES}\" y=\"{text:.1}\" fill=\"#777\">not measured</text>"
            ),
            Some(ratio) => {
                let at = |value: f64| NAMES + value * scale;
                let line = y + BAR / 2.0 - 0.5;
                write!(
                    svg,
                    "<rect x=\"{NAMES}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{colour}\"/>\
                     <line x1=\"{:.1}\" y1=\"{line:.1}\" x2=\"{:.1}\" y2=\"{line:.1}\" stroke=\"#333\"/>\
                     <text x=\"{:.1}\" y=\"{text:.1}\">{:.2}</text>",
                    ratio.middle * scale,
                    BAR - 1.0,
                    at(ratio.low),
                    at(ratio.high),
                    at(ratio.high) + 4.0,
                    ratio.middle
                )
            }
        };
        y += BAR;
    }
    svg
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_their_ratios() {
        let ratio = |low, middle, high| Some(Spread { low, middle, high });
        let rows = [
            ("cold <find>".to_owned(), vec![ratio(0.4, 0.5, 0.6), None]),
            (
                "warm stat".to_owned(),
                vec![ratio(1.0, 1.0, 1.0), ratio(1.8, 2.0, 4.0)],
            ),
        ];
        let svg = bars("Seconds & ratios", &["narfs", "squashfs"], &rows);
        let widths: Vec<f64> = svg
            .split("<rect x=\"220\"")
            .skip(1)
            .map(|rest| {
                let width = rest.split("width=\"").nth(1).unwrap();
                width.split('"').next().unwrap().parse().unwrap()
            })
            .collect();
        // The largest end of a range has all the room: 590 for a ratio of 4.
        for (width, expected) in widths.iter().zip([73.75, 147.5, 295.0]) {
            assert!((width - expected).abs() < 0.06, "{widths:?}");
        }
        assert_eq!(widths.len(), 3);
        assert!(svg.contains("cold &lt;find&gt;") && svg.contains("Seconds &amp; ratios"));
        assert!(svg.contains("not measured") && svg.contains(">0.50</text>"));
        assert_eq!(svg.matches("<svg ").count(), svg.matches("</svg>").count());
        assert!(!svg.contains("NaN"));
    }

    #[test]
    fn a_chart_of_nothing_is_a_chart() {
        let svg = bars("", &[], &[]);
        assert!(svg.ends_with("</svg>\n") && !svg.contains("NaN"));
    }
}
