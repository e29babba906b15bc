//! Bar charts as inline SVG, drawn from numbers only, so that they hold no text of the data.

use std::fmt::Write as _;

/// Bars of a chart at most: more splits share a bar.
const BARS: usize = 96;
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 140.0;
/// Height of the tallest bar; the rest is for layers that are drawn higher than they are.
const TALLEST: f64 = 134.0;
/// A layer that is not empty can be seen.
const LOWEST: f64 = 2.0;

/// A layer of a stacked chart: the class that colours it, and a value for each split.
pub(super) struct Layer<'a> {
    pub(super) class: &'a str,
    pub(super) values: Vec<f64>,
}

/// How neighbouring splits are drawn as one bar.
#[derive(Clone, Copy)]
pub(super) enum Together {
    Sum,
    Largest,
}

/// The chart: its picture and what its tallest bar stands for.
pub(super) struct Chart {
    pub(super) svg: String,
    pub(super) tallest: f64,
    pub(super) splits_per_bar: usize,
}

/// Draws layers on each other, one bar for each split or run of splits, in the order of the splits. `label` is read
/// aloud in place of the picture; it must not need escaping.
pub(super) fn stacked(label: &str, layers: &[Layer<'_>], together: Together) -> Chart {
    let splits = layers.iter().map(|layer| layer.values.len()).max().unwrap_or(0);
    let splits_per_bar = splits.div_ceil(BARS).max(1);
    let layers: Vec<(&str, Vec<f64>)> = layers
        .iter()
        .map(|layer| {
            let bars = layer.values.chunks(splits_per_bar).map(|chunk| match together {
                Together::Sum => chunk.iter().sum(),
                Together::Largest => chunk.iter().copied().fold(0.0, f64::max),
            });
            (layer.class, bars.collect())
        })
        .collect();
    let bars = splits.div_ceil(splits_per_bar);
    let height_of = |bar: usize| layers.iter().filter_map(|(_, values)| values.get(bar)).sum::<f64>();
    let tallest = (0..bars).map(height_of).fold(0.0, f64::max);
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH:.0} {HEIGHT:.0}\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{label}\">"
    );
    let pitch = WIDTH / bars.max(1) as f64;
    let width = (pitch * 0.84).min(28.0);
    for bar in 0..bars {
        let left = bar as f64 * pitch + (pitch - width) / 2.0;
        let mut top = HEIGHT;
        for (class, values) in &layers {
            let share = values.get(bar).map_or(0.0, |value| if tallest > 0.0 { value / tallest } else { 0.0 });
            if share <= 0.0 {
                continue;
            }
            let height = (share * TALLEST).max(LOWEST);
            top -= height;
            // Writing to a string cannot fail.
            let _ = write!(
                svg,
                "<rect class=\"{class}\" x=\"{left:.2}\" y=\"{top:.2}\" width=\"{width:.2}\" height=\"{height:.2}\"/>"
            );
        }
    }
    svg.push_str("</svg>");
    Chart { svg, tallest, splits_per_bar }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_stacked_scaled_and_joined() {
        let layers =
            [Layer { class: "kept", values: vec![3.0, 1.0] }, Layer { class: "rejected", values: vec![1.0, 0.0] }];
        let chart = stacked("rows", &layers, Together::Sum);
        assert_eq!((chart.tallest, chart.splits_per_bar), (4.0, 1));
        assert_eq!(chart.svg.matches("<rect").count(), 3, "an empty layer is not drawn: {}", chart.svg);
        assert!(
            chart.svg.contains("class=\"kept\" x=\"166.00\" y=\"39.50\" width=\"28.00\" height=\"100.50\""),
            "{}",
            chart.svg
        );
        assert!(
            chart.svg.contains("class=\"rejected\" x=\"166.00\" y=\"6.00\" width=\"28.00\" height=\"33.50\""),
            "{}",
            chart.svg
        );

        let many = [Layer { class: "seconds", values: (0..1000).map(f64::from).collect() }];
        let chart = stacked("seconds", &many, Together::Largest);
        assert_eq!((chart.tallest, chart.splits_per_bar), (999.0, 11));
        assert_eq!(chart.svg.matches("<rect").count(), 91);
        let nothing = stacked("rows", &[], Together::Sum);
        assert_eq!((nothing.tallest, nothing.svg.matches("<rect").count()), (0.0, 0));
    }
}
