//! Which evaluation is the best.

use super::{
    Config, Error,
    checkpoint::{Best, Progress},
    data,
    metrics::{Figures, higher_is_better},
    scores::Task,
};
use crate::artifact::manifest::Manifest;

/// What the best checkpoint goes by; `None` without validation data.
///
/// # Errors
/// [`Error::Option`] for options that need validation data; [`Error::Metric`] for one that is not measured.
pub(super) fn choose_metric(
    config: &Config,
    manifest: &Manifest,
    spec: &data::Spec,
    validated: bool,
) -> Result<Option<String>, Error> {
    if !validated {
        let given = [("patience", config.patience.is_some()), ("metric", config.metric.is_some())];
        return match given.into_iter().find(|(_, given)| *given) {
            Some((name, _)) => Err(Error::Option {
                name,
                found: "given without validation data".to_owned(),
                expected: "val beside it, a file or a fraction of the data",
            }),
            None => Ok(None),
        };
    }
    let mut known = vec!["loss".to_owned(), "objective".to_owned()];
    known.extend(manifest.graphs.evaluate.kappa.iter().cloned());
    let scores = Task::of_artifact(manifest, spec).map(|task| task.figures(spec)).unwrap_or_default();
    known.extend(scores.iter().map(|name| (*name).to_owned()));
    match &config.metric {
        Some(metric) if !known.contains(metric) => Err(Error::Metric { found: metric.clone(), expected: known }),
        Some(metric) => Ok(Some(metric.clone())),
        None if scores.contains(&"accuracy") => Ok(Some("accuracy".to_owned())),
        None => Ok(Some("loss".to_owned())),
    }
}

/// Compares an evaluation with the best one so far; true if it takes its place.
pub(super) fn judge(progress: &mut Progress, metric: &str, figures: &Figures) -> bool {
    let named = figures.named();
    let Some((_, value)) = named.iter().find(|(name, _)| *name == metric) else {
        return false;
    };
    let better = |best: &Best| if higher_is_better(metric) { *value > best.value } else { *value < best.value };
    let improved = value.is_finite() && progress.best.as_ref().is_none_or(better);
    if improved {
        progress.best = Some(Best { step: progress.position.step, metric: metric.to_owned(), value: *value });
        progress.stale = 0;
    } else {
        progress.stale += 1;
    }
    improved
}
