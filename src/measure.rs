//! κ, κ̂, `Tr H` and `‖W‖²` of a model's layers over a set of samples, in batches.

use crate::artifact::{MeasuredLayer, Measurement};
use crate::error::{Error, Result};
use crate::onnx;
use crate::runtime::{self, Runtime};
use crate::tensor::Tensor;
use crate::train::{self, Evaluator, data::Dataset};

/// How the samples are gone through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    pub batch: usize,
    /// Only so many samples, from the front.
    pub limit: Option<usize>,
    /// Probes a batch, where a figure is estimated.
    pub probes: u64,
}

/// The mean over batches, each weighted by its samples, and its standard error; `None` of one batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mean {
    pub value: f64,
    pub error: Option<f64>,
}

#[derive(Clone, Debug)]
pub struct LayerFigures {
    pub layer: MeasuredLayer,
    pub kappa: Mean,
    /// `‖W‖²_F Tr H`
    pub kappa_hat: Mean,
    pub trace: Mean,
    /// `‖W‖²_F`
    pub norm: f64,
}

#[derive(Clone, Debug)]
pub struct Figures {
    pub samples: usize,
    pub batches: usize,
    pub loss: Mean,
    pub layers: Vec<LayerFigures>,
}

/// A measurement with its graph open, ready for data.
pub struct Meter<'a> {
    measurement: &'a Measurement,
    evaluator: Evaluator,
}

impl<'a> Meter<'a> {
    /// Opens the graph; it stands in a file that is gone again when this returns.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Train`] as [`Evaluator::open`] says.
    pub fn open(
        runtime: &Runtime,
        measurement: &'a Measurement,
        options: &runtime::Options,
        seed: u64,
    ) -> Result<Meter<'a>> {
        let at = |path: &std::path::Path| {
            let path = path.to_owned();
            move |source| Error::Io { path, source }
        };
        let directory = tempfile::tempdir().map_err(at(&std::env::temp_dir()))?;
        let path = directory.path().join(&measurement.manifest.graphs.evaluate.path);
        onnx::write(&measurement.model, &path)?;
        let mut evaluator = Evaluator::open(runtime, &measurement.manifest, directory.path(), options, seed, None)?;
        let tensors = measurement.tensors.iter().map(|(name, tensor)| {
            let held = Tensor::new(tensor.dtype, tensor.shape.clone(), tensor.bytes.to_vec())?;
            Ok((name.clone(), held))
        });
        evaluator.hold(&tensors.collect::<Result<_>>()?)?;
        Ok(Meter { measurement, evaluator })
    }

    /// What data must provide.
    pub fn spec(&self) -> &train::data::Spec {
        self.evaluator.spec()
    }

    /// Goes through `data` from the front, telling `progress` how many batches are done, and of how many. Samples that do not fill a batch whose size the graph fixes are left out.
    ///
    /// # Errors
    /// [`train::Error::FixedBatch`], [`train::Error::NoFullBatch`]; [`Error::Runtime`].
    pub fn measure(&mut self, data: &Dataset, pace: &Pace, progress: &mut dyn FnMut(usize, usize)) -> Result<Figures> {
        let indices: Vec<usize> = (0..data.samples().min(pace.limit.unwrap_or(usize::MAX))).collect();
        let whole = self.spec().batch.is_some();
        let estimated = self.measurement.manifest.probes().next().is_some();
        let probes = if estimated { pace.probes.max(1) } else { 1 };
        let mut batches = Batches::default();
        for (number, part) in indices.chunks(pace.batch).enumerate() {
            if whole && part.len() < pace.batch {
                continue;
            }
            let mut sums: Vec<f64> = Vec::new();
            for probe in 0..probes {
                let figures = self.evaluator.batch(data, part, number as u64 * probes + probe)?;
                sums.resize(figures.len(), 0.0);
                sums.iter_mut().zip(&figures).for_each(|(sum, figure)| *sum += figure / probes as f64);
            }
            batches.0.push((part.len() as f64, sums));
            progress(number + 1, indices.len().div_ceil(pace.batch));
        }
        if batches.0.is_empty() {
            return Err(train::Error::NoFullBatch { samples: indices.len(), batch: pace.batch }.into());
        }
        Ok(self.figures(&batches))
    }

    /// The figures of a batch are loss, objective, two κ a layer, and one norm a layer.
    fn figures(&self, batches: &Batches) -> Figures {
        let measured = &self.measurement.layers;
        let layers = measured.iter().enumerate().map(|(k, layer)| {
            let (kappa, kappa_hat) = (batches.mean(2 + 2 * k), batches.mean(3 + 2 * k));
            let norm = batches.mean(2 + 2 * measured.len() + k).value;
            let trace = Mean { value: kappa_hat.value / norm, error: kappa_hat.error.map(|error| error / norm) };
            LayerFigures { layer: layer.clone(), kappa, kappa_hat, trace, norm }
        });
        Figures {
            samples: batches.0.iter().map(|(size, _)| *size as usize).sum(),
            batches: batches.0.len(),
            loss: batches.mean(0),
            layers: layers.collect(),
        }
    }
}

/// Samples and figures of each batch.
#[derive(Default)]
struct Batches(Vec<(f64, Vec<f64>)>);

impl Batches {
    /// `x̄ = Σ n_b x_b / Σ n_b`, with the standard error `√(B/(B−1) Σ n_b² (x_b − x̄)²) / Σ n_b` of a ratio of means.
    fn mean(&self, figure: usize) -> Mean {
        let values = || self.0.iter().map(|(size, figures)| (*size, figures.get(figure).copied().unwrap_or(f64::NAN)));
        let total: f64 = values().map(|(size, _)| size).sum();
        let value = values().map(|(size, x)| size * x).sum::<f64>() / total;
        let count = self.0.len() as f64;
        let spread: f64 = values().map(|(size, x)| (size * (x - value)).powi(2)).sum();
        let error = (self.0.len() > 1).then(|| (count / (count - 1.0) * spread).sqrt() / total);
        Mean { value, error }
    }
}
