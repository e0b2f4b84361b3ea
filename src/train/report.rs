//! What a run has come to: `report.svg` and `summary.md`, made of `metrics.jsonl` and the manifest.

use std::fs;

use serde_json::Value;

use super::{
    Config, Error,
    event::{End, Outcome},
    journal::replace,
    metrics::StepRecord,
    plot::{self, Panel, Series},
    run::Run,
};
use crate::artifact::manifest::Manifest;

pub const CURVES: &str = "report.svg";
pub const SUMMARY: &str = "summary.md";

/// Scores, of which the plot shows the first that a run has.
const SCORES: [&str; 3] = ["accuracy", "dice", "mse"];

/// Writes both files into the run's directory.
///
/// # Errors
/// [`Error::Io`]; [`Error::Plot`].
pub(super) fn write(run: &Run, config: &Config, manifest: &Manifest, outcome: &Outcome) -> Result<(), Error> {
    let path = run.metrics();
    let text = fs::read_to_string(&path).map_err(|source| Error::Io { path, source })?;
    let lines: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    replace(&run.directory.join(CURVES), &plot::svg("step", &panels(&lines))?)?;
    let name = run.directory.file_name().unwrap_or_default().to_string_lossy();
    replace(&run.directory.join(SUMMARY), &summary(&name, config, manifest, outcome))
}

/// Loss, κ of every layer, and a score, each in training and validation as far as they were measured.
fn panels(lines: &[Value]) -> Vec<Panel> {
    let mut panels = vec![Panel { y: "loss".to_owned(), series: both(lines, "loss", None, 0) }];
    let kappas = names(lines).into_iter().filter(|name| name == "kappa" || name.starts_with("kappa."));
    let kappa: Vec<Series> =
        kappas.enumerate().flat_map(|(at, name)| both(lines, &name, name.strip_prefix("kappa."), at)).collect();
    if !kappa.is_empty() {
        panels.push(Panel { y: "κ".to_owned(), series: kappa });
    }
    let score = SCORES.iter().map(|name| (name, both(lines, name, None, 0))).find(|(_, series)| !series.is_empty());
    panels.extend(score.map(|(name, series)| Panel { y: (*name).to_owned(), series }));
    panels
}

/// Names of figures in the order in which they come up.
fn names(lines: &[Value]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for line in lines {
        for (name, _) in line["validation"].as_object().or(line.as_object()).into_iter().flatten() {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
    }
    names
}

/// The curves of a figure, in training and in validation; with the name of a layer, the `at`-th, where there are several.
fn both(lines: &[Value], name: &str, layer: Option<&str>, at: usize) -> Vec<Series> {
    let curve = |set: &str, colour: usize, figure: &dyn Fn(&Value) -> Option<f64>| {
        let points: Vec<(f64, f64)> =
            lines.iter().filter_map(|line| Some((line["step"].as_f64()?, figure(line)?))).collect();
        let name = layer.map_or(set.to_owned(), |layer| format!("{layer}, {set}"));
        (!points.is_empty()).then_some(Series { name, points, marked: colour == 1, colour: 2 * at + colour })
    };
    let training = curve("training", 0, &|line| line[name].as_f64());
    let validation = curve("validation", 1, &|line| line["validation"][name].as_f64());
    training.into_iter().chain(validation).collect()
}

fn summary(name: &str, config: &Config, manifest: &Manifest, outcome: &Outcome) -> String {
    let mut text = format!("# {}\n\n", escaped(name));
    let end = match outcome.end {
        End::Finished => "to the end",
        End::NoImprovement => "until nothing improved",
        End::Interrupted => "until it was interrupted",
    };
    text += &format!(
        "{} trained on `{}` {end}: {} steps, {} epochs, batches of {}, seed {}.\n\n",
        escaped(&manifest.source.name),
        config.data.display(),
        outcome.step,
        outcome.epoch,
        config.step_samples(config.processes),
        config.seed,
    );
    text += &figures(outcome);
    text += &layers(manifest, config);
    text + &format!("![Curves of the run]({CURVES})\n")
}

fn figures(outcome: &Outcome) -> String {
    let mut rows: Vec<(String, Option<f64>, Option<f64>)> = Vec::new();
    let training: Vec<(&str, f64)> = outcome.last.as_ref().map(StepRecord::named).unwrap_or_default();
    rows.extend(training.iter().map(|(name, value)| ((*name).to_owned(), Some(*value), None)));
    let validation = outcome.validation.as_ref();
    for (name, value) in validation.map(|figures| figures.named()).unwrap_or_default() {
        match rows.iter_mut().find(|row| row.0 == name) {
            Some(row) => row.2 = Some(value),
            None => rows.push((name.to_owned(), None, Some(value))),
        }
    }
    let cell = |value: Option<f64>| value.map_or(String::new(), shown);
    let estimated = |name: &str| validation.is_some_and(|figures| figures.estimated.iter().any(|e| e == name));
    let mut text = "| | last step | last validation |\n|---|---:|---:|\n".to_owned();
    for (name, training, validation) in &rows {
        let note = if estimated(name) { " (estimate)" } else { "" };
        text += &format!("| `{name}`{note} | {} | {} |\n", cell(*training), cell(*validation));
    }
    if let Some(best) = &outcome.best {
        text += &format!("\nBest `{}`: {}, after step {}.\n", best.metric, shown(best.value), best.step);
    }
    if !outcome.unmoved.is_empty() {
        text +=
            &format!("\nNo step has moved these parameters, whose gradient is zero: {}.\n", outcome.unmoved.join(", "));
    }
    text + "\n"
}

fn layers(manifest: &Manifest, config: &Config) -> String {
    if manifest.layers.is_empty() {
        return String::new();
    }
    let mut text = "| layer | λ | W | κ |\n|---|---:|---|---|\n".to_owned();
    for layer in &manifest.layers {
        let lambda = config.lambda.unwrap_or(layer.lambda);
        let name = escaped(&layer.name);
        text +=
            &format!("| {name} | {lambda} | {} × {} | {}, {} |\n", layer.d, layer.m, layer.measure, layer.estimator);
    }
    text + "\n"
}

/// Four decimals of what they tell apart, else four digits.
fn shown(value: f64) -> String {
    match value.abs() {
        0.0 | 0.001..100.0 => format!("{value:.4}"),
        100.0..1e6 => format!("{value:.1}"),
        _ => format!("{value:.3e}"),
    }
}

/// A name within Markdown's tables and text.
fn escaped(name: &str) -> String {
    name.chars().flat_map(|c| if "|\\`*_<>".contains(c) { vec!['\\', c] } else { vec![c] }).collect()
}
