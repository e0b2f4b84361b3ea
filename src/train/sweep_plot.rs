//! Accuracy (or loss) and κ against λ, as SVG.

use plotters::prelude::*;

use super::{
    Error,
    sweep::{Row, Spread},
};

const SIZE: (u32, u32) = (860, 360);
const INK: RGBColor = RGBColor(0x1f, 0x4e, 0x8c);

/// Two panels side by side; bars are standard deviations over seeds.
pub(super) fn svg(rows: &[Row]) -> Result<String, Error> {
    let measured = rows.iter().all(|row| row.accuracy.is_some());
    let percent = |s: Spread| Spread { mean: 100.0 * s.mean, deviation: s.deviation.map(|d| 100.0 * d) };
    let quality = |row: &Row| if measured { row.accuracy.map(percent) } else { Some(row.loss) };
    let panels: [(&str, Vec<Option<Spread>>); 2] = [
        (if measured { "accuracy, %" } else { "loss" }, rows.iter().map(quality).collect()),
        ("κ", rows.iter().map(|row| row.kappa).collect()),
    ];
    let labels: Vec<String> = rows.iter().map(|row| row.lambda.to_string()).collect();
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        let halves = area.split_evenly((1, 2));
        area.fill(&WHITE)
            .and_then(|()| {
                panels.iter().zip(&halves).try_for_each(|((title, points), half)| panel(half, title, &labels, points))
            })
            .and_then(|()| area.present())
            .map_err(|error| Error::Graph { why: error.to_string() })?;
    }
    Ok(text)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

fn panel(area: &Area<'_>, title: &str, labels: &[String], points: &[Option<Spread>]) -> Drawn {
    let ends = |s: &Spread| [s.mean - s.deviation.unwrap_or(0.0), s.mean + s.deviation.unwrap_or(0.0)];
    let all: Vec<f64> = points.iter().flatten().flat_map(ends).filter(|v| v.is_finite()).collect();
    let low = all.iter().copied().fold(f64::INFINITY, f64::min);
    let high = all.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if low > high {
        return Ok(());
    }
    let room = (0.08 * (high - low)).max(1e-9 + 0.01 * high.abs());
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(60)
        .build_cartesian_2d(-0.5..labels.len() as f64 - 0.5, low - room..high + room)?;
    let label = |x: &f64| {
        let whole = (x - x.round()).abs() < 1e-6 && *x > -0.25;
        if whole { labels.get(x.round() as usize).cloned().unwrap_or_default() } else { String::new() }
    };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(2 * labels.len() + 1)
        .x_label_formatter(&label)
        .x_desc("λ")
        .light_line_style(WHITE)
        .draw()?;
    let places = || points.iter().enumerate().filter_map(|(k, s)| Some((k as f64, s.as_ref()?)));
    chart.draw_series(LineSeries::new(places().map(|(x, s)| (x, s.mean)), INK.stroke_width(2)))?;
    chart.draw_series(places().map(|(x, s)| {
        let [low, high] = ends(s);
        PathElement::new(vec![(x, low), (x, high)], INK.stroke_width(1))
    }))?;
    chart.draw_series(places().map(|(x, s)| Circle::new((x, s.mean), 4, INK.filled())))?;
    Ok(())
}
