//! Plots as SVG: bars in groups, and lines with their names at their ends.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// What went wrong with a plot.
pub type PlotError = Box<dyn std::error::Error>;

/// Colours that can be distinguished without colour vision, too, in the order of series.
const COLOURS: [RGBColor; 3] = [RGBColor(0, 114, 178), RGBColor(213, 94, 0), RGBColor(90, 90, 90)];
const SIZE: (u32, u32) = (760, 460);
const FONT: &str = "sans-serif";
/// How high the area above a chart is: title, a line about it, and the names of bars.
const HEAD: u32 = 100;
/// Room above the highest value.
const HEADROOM: f64 = 1.18;

/// Words around a chart.
#[derive(Clone, Debug)]
pub struct Words {
    /// The question.
    pub question: String,
    /// The answer of this run, in one line.
    pub answer: String,
    /// What goes up.
    pub y: String,
    /// What goes right.
    pub x: String,
    /// On what this was measured.
    pub machine: String,
}

/// Bars that stand together.
#[derive(Clone, Debug)]
pub struct Group {
    /// What they have in common.
    pub name: String,
    /// A value for each series.
    pub values: Vec<f64>,
}

/// A line.
#[derive(Clone, Debug)]
pub struct Line {
    /// Its name.
    pub name: String,
    /// Its points.
    pub points: Vec<(f64, f64)>,
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn style(size: i32, h: HPos, v: VPos) -> TextStyle<'static> {
    TextStyle::from((FONT, size).into_font()).pos(Pos::new(h, v)).color(&RGBColor(40, 40, 40))
}

/// The head of a plot; what is left is for the chart.
fn head<'a>(file: &'a Path, words: &Words) -> Result<(Area<'a>, Area<'a>), PlotError> {
    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let (top, rest) = root.split_vertically(HEAD);
    let (chart, foot) = rest.split_vertically(SIZE.1 - HEAD - 22);
    let title = style(24, HPos::Left, VPos::Top);
    top.draw(&Text::new(words.question.clone(), (16, 14), title))?;
    top.draw(&Text::new(words.answer.clone(), (16, 46), style(16, HPos::Left, VPos::Top)))?;
    let small = style(11, HPos::Left, VPos::Top).color(&RGBColor(110, 110, 110));
    foot.draw(&Text::new(words.machine.clone(), (16, 2), small))?;
    Ok((root, chart))
}

/// Draws groups of bars, each bar with its value. `series` names the bars of a group.
///
/// # Errors
/// If the file cannot be written.
pub fn bars(
    file: &Path,
    words: &Words,
    series: &[&str],
    groups: &[Group],
) -> Result<(), PlotError> {
    let (root, area) = head(file, words)?;
    let highest = groups.iter().flat_map(|g| &g.values).copied().fold(0.0, f64::max) * HEADROOM;
    let mut chart = ChartBuilder::on(&area)
        .margin(10)
        .margin_right(20)
        .x_label_area_size(34)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..groups.len() as f64, 0.0..highest)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .disable_x_axis()
        .light_line_style(TRANSPARENT)
        .bold_line_style(RGBColor(225, 225, 225))
        .y_labels(6)
        .y_label_formatter(&|y| format!("{y:.0}"))
        .y_desc(words.y.as_str())
        .axis_desc_style((FONT, 14))
        .label_style((FONT, 13))
        .draw()?;
    let width = 0.7 / series.len() as f64;
    for (i, group) in groups.iter().enumerate() {
        for (j, value) in group.values.iter().enumerate() {
            let left = i as f64 + 0.15 + j as f64 * width;
            let bar = [(left, 0.0), (left + width * 0.94, *value)];
            let middle = left + width * 0.47;
            chart.plotting_area().draw(&Rectangle::new(bar, COLOURS[j % 3].filled()))?;
            let label = style(14, HPos::Center, VPos::Bottom);
            let above = (middle, value + highest * 0.01);
            chart.plotting_area().draw(&Text::new(format!("{value:.0}"), above, label))?;
        }
        let (x, y) = chart.backend_coord(&(i as f64 + 0.5, 0.0));
        let name = style(14, HPos::Center, VPos::Top);
        root.draw(&Text::new(group.name.clone(), (x, y + 8), name))?;
    }
    for (j, name) in series.iter().enumerate() {
        let (x, y) = (90 + 150 * j as i32, HEAD as i32 - 22);
        root.draw(&Rectangle::new([(x, y), (x + 14, y + 14)], COLOURS[j % 3].filled()))?;
        let text = style(15, HPos::Left, VPos::Top).color(&COLOURS[j % 3]);
        root.draw(&Text::new((*name).to_string(), (x + 20, y - 1), text))?;
    }
    root.present()?;
    Ok(())
}

/// Draws lines over whole numbers from 1 on, each with its name at its end.
///
/// # Errors
/// If the file cannot be written.
pub fn lines(file: &Path, words: &Words, lines: &[Line]) -> Result<(), PlotError> {
    let (root, area) = head(file, words)?;
    let points = || lines.iter().flat_map(|line| &line.points);
    let last = points().map(|p| p.0).fold(1.0, f64::max);
    let highest = points().map(|p| p.1).fold(0.0, f64::max) * HEADROOM;
    let mut chart = ChartBuilder::on(&area)
        .margin(10)
        .margin_right(120)
        .x_label_area_size(46)
        .y_label_area_size(64)
        .build_cartesian_2d(0.8..last + 0.1, 0.0..highest)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(RGBColor(225, 225, 225))
        .x_labels(last as usize + 1)
        .x_label_formatter(&|x| {
            if (x - x.round()).abs() < 1e-6 { format!("{x:.0}") } else { String::new() }
        })
        .y_labels(6)
        .y_label_formatter(&|y| format!("{y:.0}"))
        .x_desc(words.x.as_str())
        .y_desc(words.y.as_str())
        .axis_desc_style((FONT, 14))
        .label_style((FONT, 13))
        .draw()?;
    for (i, line) in lines.iter().enumerate() {
        let colour = COLOURS[i % 3];
        chart.draw_series(LineSeries::new(line.points.clone(), colour.stroke_width(3)))?;
        for point in &line.points {
            chart.plotting_area().draw(&Circle::new(*point, 5, colour.filled()))?;
        }
        if let Some((x, y)) = line.points.last() {
            let (x, y) = chart.backend_coord(&(*x, *y));
            let text = style(15, HPos::Left, VPos::Center).color(&colour);
            root.draw(&Text::new(line.name.clone(), (x + 14, y), text))?;
        }
    }
    root.present()?;
    Ok(())
}
