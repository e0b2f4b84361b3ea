//! A run as it goes: a bar on a terminal, plain lines elsewhere; always on stderr.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::Output;
use crate::train::{Event, Figures, StepRecord};

pub(super) struct Progress {
    output: Output,
    bar: Option<ProgressBar>,
}

/// A bar over batches on a terminal, a line every ten seconds elsewhere.
pub(super) fn batches(output: &Output) -> impl FnMut(usize, usize) + use<> {
    const PAUSE: Duration = Duration::from_secs(10);
    let (output, mut drawn, mut said) = (*output, None, Instant::now());
    move |done, total| {
        let bar = drawn.get_or_insert_with(|| output.draws().then(|| bar(0, total as u64)));
        match bar {
            Some(bar) if done == total => bar.finish_and_clear(),
            Some(bar) => bar.set_position(done as u64),
            None if said.elapsed() > PAUSE && done < total => {
                output.say(&format!("batch {done} of {total}"));
                said = Instant::now();
            }
            None => {}
        }
    }
}

impl Progress {
    pub fn new(output: &Output) -> Progress {
        Progress { output: *output, bar: None }
    }

    pub fn show(&mut self, event: &Event) {
        match event {
            Event::Damaged { path, why, aside } => self.line(&format!(
                "{} is damaged ({why}); it is now {}, and the run goes on from the checkpoint before it",
                path.display(),
                aside.display()
            )),
            Event::Start { plan, .. } if plan.done >= plan.total => {
                self.line(&format!("all of {} steps are done already; more with --steps or --epochs", plan.total));
            }
            Event::Start { plan, device, refused } => {
                if let Some(why) = refused {
                    self.line(&format!("CUDA is not used: {why}"));
                }
                self.line(&format!(
                    "steps {} to {} on {device}, {} a pass over {} samples in batches of {}{}{}",
                    plan.done + 1,
                    plan.total,
                    plan.steps_per_epoch,
                    plan.training_samples,
                    plan.batch,
                    if plan.processes > 1 { format!(" by {} processes", plan.processes) } else { String::new() },
                    match plan.validation_samples {
                        0 => String::new(),
                        samples => format!("; validated with {samples}"),
                    }
                ));
                if self.output.draws() {
                    self.bar = Some(bar(plan.done, plan.total));
                }
            }
            Event::Step { record, logged } => match &self.bar {
                Some(bar) => {
                    bar.set_position(record.step);
                    if *logged {
                        bar.set_message(crate::shown::line(&figures(record)));
                    }
                }
                None if *logged => self.line(&step_line(record)),
                None => {}
            },
            Event::Validation { step, epoch, figures, improved } => {
                let best = if *improved { "  (best)" } else { "" };
                self.line(&format!("step {step}  epoch {epoch}  validation: {}{best}", named(figures)));
            }
            Event::Unmoved { parameters } => {
                self.line(&format!("no step has moved {}: the gradient is zero", parameters.join(", ")));
            }
            Event::Classes { names } => {
                let numbered: Vec<String> = names.iter().enumerate().map(|(k, name)| format!("{k} {name}")).collect();
                self.line(&format!("classes: {}", numbered.join(", ")));
            }
            Event::Checkpoint { path } => {
                if self.output.verbose {
                    self.line(&format!("saved {}", path.display()));
                }
            }
        }
    }

    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| self.output.say(text)),
            None => self.output.say(text),
        }
    }
}

fn bar(done: u64, total: u64) -> ProgressBar {
    let bar = ProgressBar::new(total).with_position(done);
    let style = ProgressStyle::with_template("{bar:24} {pos}/{len}  {msg}  {eta} left");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_millis(250));
    bar.reset_eta();
    bar
}

fn step_line(record: &StepRecord) -> String {
    format!("step {}  epoch {}  {}", record.step, record.epoch, figures(record))
}

fn figures(record: &StepRecord) -> String {
    let kappa: String = record.kappa.iter().map(|(name, value)| format!("  {name} {value:.4}")).collect();
    format!("loss {:.4}{kappa}  lr {:.2e}  {:.0}/s", record.loss, record.lr, record.examples_per_second)
}

/// Figures in one line.
pub(super) fn named(figures: &Figures) -> String {
    let shown = |(name, value): &(&str, f64)| {
        let about = if figures.estimated.iter().any(|estimate| estimate == name) { "≈ " } else { "" };
        format!("{name} {about}{value:.4}")
    };
    figures.named().iter().map(shown).collect::<Vec<_>>().join("  ")
}
