//! Curves as SVG, for light and dark pages.

use plotters::{
    coord::Shift,
    prelude::{
        ChartBuilder, Circle, DrawingArea, IntoDrawingArea, IntoFont, LineSeries, PathElement, RGBColor, SVGBackend,
        ShapeStyle, WHITE,
    },
    style::{Color, TextStyle},
};

use super::Error;

const WIDTH: u32 = 760;
/// Of a panel.
const HEIGHT: u32 = 260;
/// Of the names above a panel's curves.
const LEGEND: u32 = 24;
/// Width of the vertical axis.
const AXIS: u32 = 72;
/// Points of a curve; more are averaged in groups, as a page does not show them.
const POINTS: usize = 800;
/// Positive values that span more than this are drawn by their logarithms.
const LOGARITHMIC: f64 = 100.0;

const INK: RGBColor = RGBColor(0x33, 0x33, 0x33);
const GRID: RGBColor = RGBColor(0xe4, 0xe4, 0xe4);
/// Readable on white and on near-black, and told apart by colour-blind eyes (after M. Okabe and K. Ito).
const COLOURS: [RGBColor; 6] = [
    RGBColor(0x2b, 0x7b, 0xba),
    RGBColor(0xd9, 0x6c, 0x1e),
    RGBColor(0x1f, 0x9e, 0x77),
    RGBColor(0xb8, 0x5c, 0x9e),
    RGBColor(0x8a, 0x8a, 0x2a),
    RGBColor(0x6b, 0x6b, 0xc4),
];
/// Ink, grid and paper of a dark page. A rule of a style sheet wins over the attribute of an element.
const DARK: &str = "<style>@media (prefers-color-scheme: dark) {\
     text { fill: #d4d4d4 } [stroke=\"#333333\"] { stroke: #a8a8a8 } [stroke=\"#E4E4E4\"] { stroke: #3a3f46 } \
     rect[fill=\"#FFFFFF\"] { fill: #15191e } }</style>\n";

/// A curve.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    pub name: String,
    /// In ascending order of x; points that are not finite are left out.
    pub points: Vec<(f64, f64)>,
    /// Whether each point is marked, as few measured ones are.
    pub marked: bool,
    /// Curves of one kind have the same colour in every panel.
    pub colour: usize,
}

impl Series {
    fn colour(&self) -> RGBColor {
        COLOURS[self.colour % COLOURS.len()]
    }
}

/// Curves over one pair of axes.
#[derive(Debug, Clone, PartialEq)]
pub struct Panel {
    /// What the vertical axis shows, with its unit if it has one.
    pub y: String,
    pub series: Vec<Series>,
}

/// Panels below one another over the same horizontal axis, which `x` names.
///
/// # Errors
/// [`Error::Plot`] if they cannot be drawn.
pub fn svg(x: &str, panels: &[Panel]) -> Result<String, Error> {
    let mut text = String::new();
    {
        let size = (WIDTH, HEIGHT * panels.len().max(1) as u32);
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        area.fill(&WHITE).map_err(|error| fault(&error))?;
        let range = span(panels.iter().flat_map(|panel| &panel.series).flat_map(|s| &s.points).map(|point| point.0));
        for (at, (part, panel)) in area.split_evenly((panels.len().max(1), 1)).iter().zip(panels).enumerate() {
            draw(part, if at + 1 == panels.len() { x } else { "" }, panel, range)?;
        }
        area.present().map_err(|error| fault(&error))?;
    }
    Ok(match text.find('\n') {
        Some(end) => format!("{}\n{DARK}{}", &text[..end], &text[end + 1..]),
        None => text,
    })
}

fn fault(error: &dyn std::fmt::Display) -> Error {
    Error::Plot { why: error.to_string() }
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn draw(area: &Area<'_>, x: &str, panel: &Panel, (left, right): (f64, f64)) -> Result<(), Error> {
    let values = || panel.series.iter().flat_map(|s| &s.points).map(|point| point.1).filter(|y| y.is_finite());
    let (low, high) = span(values());
    let logarithmic = low > 0.0 && high / low > LOGARITHMIC;
    let scale = move |y: f64| if logarithmic { y.log10() } else { y };
    let (bottom, top) = padded(scale(low), scale(high));
    let (names, curves) = area.split_vertically(LEGEND);
    legend(&names, &panel.series)?;
    let mut chart = ChartBuilder::on(&curves)
        .margin(8)
        .margin_right(24)
        .x_label_area_size(if x.is_empty() { 24 } else { 42 })
        .y_label_area_size(AXIS)
        .build_cartesian_2d(left..right, bottom..top)
        .map_err(|error| fault(&error))?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(8)
        .y_labels(5)
        .max_light_lines(0)
        .bold_line_style(GRID)
        .axis_style(INK)
        .label_style(text(14))
        .axis_desc_style(text(15))
        .x_desc(x)
        .y_desc(&panel.y)
        .x_label_formatter(&|x| number(*x))
        .y_label_formatter(&|y| number(if logarithmic { 10f64.powf(*y) } else { *y }))
        .draw()
        .map_err(|error| fault(&error))?;
    for series in &panel.series {
        let points: Vec<(f64, f64)> = thinned(&series.points).into_iter().map(|(x, y)| (x, scale(y))).collect();
        let style = ShapeStyle::from(series.colour()).stroke_width(2);
        chart.draw_series(LineSeries::new(points.iter().copied(), style)).map_err(|error| fault(&error))?;
        if series.marked {
            let marks = points.iter().map(|&point| Circle::new(point, 3, series.colour().filled()));
            chart.draw_series(marks).map_err(|error| fault(&error))?;
        }
    }
    Ok(())
}

/// The names of the curves, side by side above them.
fn legend(area: &Area<'_>, series: &[Series]) -> Result<(), Error> {
    let style = text(14);
    let mut left = AXIS as i32 + 8;
    for series in series {
        let line = PathElement::new(
            vec![(left, LEGEND as i32 - 8), (left + 22, LEGEND as i32 - 8)],
            ShapeStyle::from(series.colour()).stroke_width(2),
        );
        area.draw(&line).map_err(|error| fault(&error))?;
        if series.marked {
            let mark = Circle::new((left + 11, LEGEND as i32 - 8), 3, series.colour().filled());
            area.draw(&mark).map_err(|error| fault(&error))?;
        }
        area.draw_text(&series.name, &style, (left + 28, LEGEND as i32 - 14)).map_err(|error| fault(&error))?;
        let (width, _) = area.estimate_text_size(&series.name, &style).map_err(|error| fault(&error))?;
        left += 52 + width as i32;
    }
    Ok(())
}

fn text(size: i32) -> TextStyle<'static> {
    TextStyle::from(("sans-serif", size).into_font()).color(&INK)
}

/// The least and the largest finite value; a point of its own width where there is one value, or none.
fn span(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values
        .filter(|value| value.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    match (low, high) {
        (low, high) if low < high => (low, high),
        (low, _) if low.is_finite() => (low - 0.5, low + 0.5),
        _ => (0.0, 1.0),
    }
}

fn padded(low: f64, high: f64) -> (f64, f64) {
    let padding = 0.05 * (high - low);
    (low - padding, high + padding)
}

/// Finite points, at most [`POINTS`] of them: the means of groups that follow one another.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let finite: Vec<(f64, f64)> = points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite()).collect();
    let group = finite.len().div_ceil(POINTS).max(1);
    let mean = |part: &[(f64, f64)]| {
        let n = part.len() as f64;
        (part.iter().map(|p| p.0).sum::<f64>() / n, part.iter().map(|p| p.1).sum::<f64>() / n)
    };
    finite.chunks(group).map(mean).collect()
}

/// A label of an axis: three digits that count, without zeros behind them.
fn number(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let exponent = value.abs().log10().floor();
    if (-4.0..6.0).contains(&exponent) {
        let decimals = (2.0 - exponent).clamp(0.0, 6.0) as usize;
        let text = format!("{value:.decimals$}");
        return if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text };
    }
    format!("{value:.1e}")
}
