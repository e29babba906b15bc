//! Bar charts, box plots and line charts as SVG: axes with names and round ticks, a legend, and nothing that needs fonts or a library to draw.
//!
//! ```
//! use gristmill_operators::analysis::chart::{self, Titles};
//!
//! let titles = Titles { title: "Recall", x: "k", y: "recall" };
//! let svg = chart::lines(titles, &[("bm25".to_owned(), vec![(1.0, 0.2), (10.0, 0.7)])]);
//! assert!(svg.starts_with("<svg") && svg.contains("<polyline") && svg.contains(">recall</text>"));
//! ```

use std::fmt::Write as _;

use super::statistics::quantile;

const WIDTH: f64 = 820.0;
const LEFT: f64 = 84.0;
const TOP: f64 = 44.0;
const PLOT_HEIGHT: f64 = 300.0;
/// Room for the legend on the right.
const LEGEND: f64 = 170.0;
const SIZE: f64 = 13.0;
/// About how wide a character of a sans-serif font is, as a share of its size.
const CHARACTER: f64 = 0.58;
/// Longer names are cut.
const LONGEST: usize = 28;
/// Colours that people with a colour vision deficiency tell apart (Okabe and Ito 2008).
const COLOURS: [&str; 8] = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8a7f00", "#555555"];

/// What a chart and its axes are called.
#[derive(Clone, Copy, Debug)]
pub struct Titles<'a> {
    /// Above the chart.
    pub title: &'a str,
    /// Below the horizontal axis.
    pub x: &'a str,
    /// Beside the vertical axis.
    pub y: &'a str,
}

/// A group of bars for each category, one bar for each series; a series has a value for each category, and one that is not finite has no bar.
#[must_use]
pub fn bars(titles: Titles<'_>, categories: &[String], series: &[(String, Vec<f64>)]) -> String {
    let values = series.iter().flat_map(|(_, values)| values).copied();
    let mut chart = Chart::new(titles, Scale::of(values.chain([0.0])), series.len() > 1);
    chart.categories(categories);
    let pitch = chart.width / categories.len().max(1) as f64;
    let width = pitch * 0.8 / series.len().max(1) as f64;
    for (number, (name, values)) in series.iter().enumerate() {
        for (category, &value) in values.iter().enumerate().take(categories.len()).filter(|(_, value)| value.is_finite()) {
            let x = LEFT + pitch * (category as f64 + 0.1) + width * number as f64;
            let (top, bottom) = (chart.y(value.max(0.0)), chart.y(value.min(0.0)));
            let label = format!("{}, {name}: {}", categories[category], number_text(value));
            chart.shape(&format!(
                "<rect x=\"{x:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{}\"><title>{}</title></rect>",
                width * 0.94,
                (bottom - top).max(0.5),
                colour(number),
                escaped(&label)
            ));
        }
        chart.legend(number, name);
    }
    chart.finish()
}

/// A box from the lower to the upper quartile with a line at the median for each list of numbers; whiskers go to the farthest numbers within 1.5 times
/// the height of the box, and what lies beyond is drawn as dots (Tukey 1977).
#[must_use]
pub fn boxes(titles: Titles<'_>, lists: &[(String, Vec<f64>)]) -> String {
    let mut chart = Chart::new(titles, Scale::of(lists.iter().flat_map(|(_, values)| values).copied()), false);
    let names: Vec<String> = lists.iter().map(|(name, _)| name.clone()).collect();
    chart.categories(&names);
    let pitch = chart.width / lists.len().max(1) as f64;
    for (number, (name, values)) in lists.iter().enumerate() {
        let values: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
        let quartiles = [0.25, 0.5, 0.75].map(|share| quantile(&values, share));
        let [Some(lower), Some(median), Some(upper)] = quartiles else { continue };
        let reach = 1.5 * (upper - lower);
        let inside = values.iter().copied().filter(|&value| value >= lower - reach && value <= upper + reach);
        let (low, high) = inside.fold((lower, upper), |(low, high), value| (low.min(value), high.max(value)));
        let middle = LEFT + pitch * (number as f64 + 0.5);
        let half = (pitch * 0.3).min(40.0);
        let y = |value: f64| chart.y(value);
        let mut shape = format!(
            "<g stroke=\"#222\" fill=\"none\"><title>{}: median {}, {} numbers</title>",
            escaped(name),
            number_text(median),
            values.len()
        );
        for (from, to) in [(lower, low), (upper, high)] {
            let _ = write!(shape, "<path d=\"M{middle:.1} {:.1}V{:.1}M{:.1} {:.1}h{:.1}\"/>", y(from), y(to), middle - half / 2.0, y(to), half);
        }
        let _ = write!(
            shape,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{}\" fill-opacity=\"0.55\"/>",
            middle - half,
            y(upper),
            2.0 * half,
            (y(lower) - y(upper)).max(0.5),
            colour(number)
        );
        let _ = write!(shape, "<path stroke-width=\"2\" d=\"M{:.1} {:.1}h{:.1}\"/>", middle - half, y(median), 2.0 * half);
        let mut beyond: Vec<f64> = values.iter().copied().filter(|&value| value < low || value > high).collect();
        // Dots at one place on paper are one dot.
        beyond.sort_unstable_by(f64::total_cmp);
        beyond.dedup_by(|a, b| (y(*a) - y(*b)).abs() < 0.5);
        for value in beyond {
            let _ = write!(shape, "<circle cx=\"{middle:.1}\" cy=\"{:.1}\" r=\"2.2\" stroke=\"{}\"/>", y(value), colour(number));
        }
        shape.push_str("</g>");
        chart.shape(&shape);
    }
    chart.finish()
}

/// A line for each series of points, which are joined in their order.
#[must_use]
pub fn lines(titles: Titles<'_>, series: &[(String, Vec<(f64, f64)>)]) -> String {
    let points = || series.iter().flat_map(|(_, points)| points).filter(|(x, y)| x.is_finite() && y.is_finite());
    let mut chart = Chart::new(titles, Scale::of(points().map(|point| point.1).chain([0.0])), series.len() > 1);
    let across = Scale::of(points().map(|point| point.0));
    let x = |value: f64, width: f64| LEFT + width * across.share(value);
    let width = chart.width;
    for tick in across.ticks() {
        let at = x(tick, width);
        let y = TOP + PLOT_HEIGHT;
        chart.shape(&format!(
            "<path stroke=\"#222\" d=\"M{at:.1} {y:.1}v5\"/><text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            y + 19.0,
            number_text(tick)
        ));
    }
    chart.below = 34.0;
    for (number, (name, points)) in series.iter().enumerate() {
        let points: Vec<&(f64, f64)> = points.iter().filter(|(x, y)| x.is_finite() && y.is_finite()).collect();
        let places: Vec<String> = points.iter().map(|point| format!("{:.1},{:.1}", x(point.0, width), chart.y(point.1))).collect();
        chart.shape(&format!(
            "<polyline fill=\"none\" stroke=\"{}\" stroke-width=\"2\" points=\"{}\"/>",
            colour(number),
            places.join(" ")
        ));
        for place in &places {
            let (x, y) = place.split_once(',').unwrap_or_default();
            chart.shape(&format!("<circle cx=\"{x}\" cy=\"{y}\" r=\"3\" fill=\"{}\"/>", colour(number)));
        }
        chart.legend(number, name);
    }
    chart.finish()
}

/// The range of an axis, from one round number to another.
struct Scale {
    low: f64,
    high: f64,
    step: f64,
}

impl Scale {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let (mut low, mut high) = values
            .filter(|value| value.is_finite())
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        if low == high {
            // A single value lies within some range.
            let around = if low == 0.0 { 1.0 } else { low.abs() * 0.1 };
            (low, high) = (low - around, high + around);
        }
        let raw = (high - low) / 6.0;
        let unit = 10.0_f64.powf(raw.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * unit).find(|&step| step >= raw * 0.999).unwrap_or(raw);
        // What differs by rounding only is not one step more.
        Self { low: (low / step + 1e-9).floor() * step, high: (high / step - 1e-9).ceil() * step, step }
    }

    fn share(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }

    fn ticks(&self) -> Vec<f64> {
        let count = ((self.high - self.low) / self.step).round() as i64;
        let first = (self.low / self.step).round();
        // Multiples of the step, so that zero is zero.
        (0..=count).map(|tick| (first + tick as f64) * self.step).collect()
    }
}

struct Chart<'a> {
    titles: Titles<'a>,
    scale: Scale,
    width: f64,
    body: String,
    /// Height of the names below the axis.
    below: f64,
}

impl<'a> Chart<'a> {
    fn new(titles: Titles<'a>, scale: Scale, legend: bool) -> Self {
        let width = WIDTH - LEFT - 24.0 - if legend { LEGEND } else { 0.0 };
        let mut chart = Self { titles, scale, width, body: String::new(), below: 0.0 };
        for tick in chart.scale.ticks() {
            let y = chart.y(tick);
            let stroke = if tick == 0.0 { "#666" } else { "#ddd" };
            let text = number_text(tick);
            chart.shape(&format!(
                "<path stroke=\"{stroke}\" d=\"M{LEFT} {y:.1}h{width:.1}\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>",
                LEFT - 8.0,
                y + 4.5
            ));
        }
        chart
    }

    fn y(&self, value: f64) -> f64 {
        TOP + PLOT_HEIGHT * (1.0 - self.scale.share(value))
    }

    fn shape(&mut self, svg: &str) {
        self.body.push_str(svg);
        self.body.push('\n');
    }

    /// Names below the axis, turned where they would touch.
    fn categories(&mut self, names: &[String]) {
        let names: Vec<String> = names.iter().map(|name| cut(name)).collect();
        let pitch = self.width / names.len().max(1) as f64;
        let longest = names.iter().map(|name| name.chars().count()).max().unwrap_or(0) as f64 * SIZE * CHARACTER;
        let turned = longest > pitch * 0.95;
        let y = TOP + PLOT_HEIGHT + 18.0;
        for (number, name) in names.iter().enumerate() {
            let x = LEFT + pitch * (number as f64 + 0.5);
            let place = if turned {
                format!("text-anchor=\"end\" transform=\"translate({x:.1} {:.1}) rotate(-45)\"", y - 2.0)
            } else {
                format!("text-anchor=\"middle\" x=\"{x:.1}\" y=\"{y:.1}\"")
            };
            self.shape(&format!("<text {place}>{}</text>", escaped(name)));
        }
        self.below = if turned { 18.0 + longest * 0.71 + 10.0 } else { 34.0 };
    }

    fn legend(&mut self, number: usize, name: &str) {
        if self.width < WIDTH - LEFT - LEGEND {
            let (x, y) = (LEFT + self.width + 18.0, TOP + 20.0 * number as f64);
            self.shape(&format!(
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"12\" height=\"12\" fill=\"{}\"/><text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                colour(number),
                x + 18.0,
                y + 11.0,
                escaped(&cut(name))
            ));
        }
    }

    fn finish(self) -> String {
        let Titles { title, x, y } = self.titles;
        let height = TOP + PLOT_HEIGHT + self.below + 34.0;
        let (middle, up) = (LEFT + self.width / 2.0, TOP + PLOT_HEIGHT / 2.0);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" width=\"{WIDTH}\" height=\"{height:.0}\" role=\"img\" font-family=\"sans-serif\" font-size=\"{SIZE}\" fill=\"#222\">\n\
             <title>{title}</title>\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
             <text x=\"{middle:.1}\" y=\"26\" text-anchor=\"middle\" font-size=\"16\" font-weight=\"bold\">{title}</text>\n\
             {body}<path stroke=\"#222\" fill=\"none\" d=\"M{LEFT} {TOP}v{PLOT_HEIGHT}h{:.1}\"/>\n\
             <text x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{x}</text>\n\
             <text transform=\"translate(20 {up:.1}) rotate(-90)\" text-anchor=\"middle\">{y}</text>\n</svg>\n",
            self.width,
            TOP + PLOT_HEIGHT + self.below + 16.0,
            title = escaped(title),
            x = escaped(x),
            y = escaped(y),
            body = self.body,
        )
    }
}

fn colour(number: usize) -> &'static str {
    COLOURS[number % COLOURS.len()]
}

/// Numbers as short as they can be read.
fn number_text(value: f64) -> String {
    let magnitude = value.abs();
    if value == 0.0 {
        "0".to_owned()
    } else if (1e-3..1e6).contains(&magnitude) {
        let text = format!("{value:.4}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        format!("{value:.1e}")
    }
}

fn cut(name: &str) -> String {
    match name.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    }
}

fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            // XML has no other control characters.
            _ if character.is_control() => safe.push(' '),
            _ => safe.push(character),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    const TITLES: Titles<'_> = Titles { title: "a < b & c", x: "x \"1\"", y: "y\u{1}" };

    #[test]
    fn scales_end_at_round_numbers_and_hold_what_they_show() {
        for (values, ticks) in [
            (&[0.0, 1.0][..], &[0.0, 0.2, 0.4, 0.6, 0.8, 1.0][..]),
            (&[-3.0, 9.0], &[-4.0, -2.0, 0.0, 2.0, 4.0, 6.0, 8.0, 10.0]),
            (&[5.0], &[4.4, 4.6, 4.8, 5.0, 5.2, 5.4, 5.6]),
            (&[], &[0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
            (&[0.0, f64::NAN], &[-1.0, -0.5, 0.0, 0.5, 1.0]),
        ] {
            let found = Scale::of(values.iter().copied()).ticks();
            assert_eq!(found.len(), ticks.len(), "{values:?}: {found:?}");
            assert!(found.iter().zip(ticks).all(|(a, b)| (a - b).abs() < 1e-9), "{values:?}: {found:?}");
        }
        assert_eq!([0.25, -1200.0, 0.0, 2.5e-7, 0.1 + 0.2].map(number_text), ["0.25", "-1200", "0", "2.5e-7", "0.3"]);
    }

    #[test]
    fn shapes_stand_where_their_values_are() {
        let names = ["one".to_owned(), "a name that is longer than there is room for".to_owned()];
        let chart = bars(TITLES, &names, &[("s".to_owned(), vec![1.0, -1.0]), ("t".to_owned(), vec![0.5, f64::NAN])]);
        // Of the frame, three bars and two of the legend.
        assert_eq!(chart.matches("<rect").count(), 1 + 3 + 2, "{chart}");
        assert!(chart.contains("a &lt; b &amp; c") && chart.contains("x &quot;1&quot;") && chart.contains(">y </text>"));
        assert!(chart.contains("rotate(-45)\">a name that is longer than …</text>"), "{chart}");
        // From -1 to 1 the middle of 300 units is zero, and bars go 150 up and down from there.
        assert!(chart.contains("y=\"44.0\" width=\"101.7\" height=\"150.0\"") && chart.contains("y=\"194.0\" width=\"101.7\" height=\"150.0\""), "{chart}");

        let plot = boxes(TITLES, &[("b".to_owned(), vec![0.0, 2.0, 4.0, 6.0, 8.0, 30.0]), ("empty".to_owned(), vec![])]);
        assert_eq!((plot.matches("<circle").count(), plot.matches("<g ").count()), (1, 1), "{plot}");
        assert!(plot.contains("median 5, 6 numbers"), "{plot}");

        let chart = lines(TITLES, &[("l".to_owned(), vec![(1.0, 0.5), (3.0, 1.0), (f64::INFINITY, 1.0)])]);
        assert!(chart.contains("points=\"84.0,194.0 796.0,44.0\""), "{chart}");
        assert_eq!(chart.matches("<circle").count(), 2);
    }
}
