//! `manifest.json`: what is read is what is written, and every fault is named.

mod common;

use std::path::Path;

use common::toy_artifact;
use expect_test::expect;
use fam_onnx::artifact::manifest::{Error, Manifest};

fn toy() -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().expect("a directory");
    let artifact = toy_artifact(directory.path(), true);
    let text = std::fs::read_to_string(artifact.join("manifest.json")).expect("a manifest");
    (directory, text)
}

#[test]
fn reading_and_writing_gives_the_same_text() {
    let (_directory, text) = toy();
    let manifest = Manifest::parse(Path::new("manifest.json"), &text).expect("a manifest");
    let written = manifest.to_json().expect("text");
    let again = Manifest::parse(Path::new("manifest.json"), &written).expect("a manifest");
    assert_eq!(again, manifest);
    assert_eq!(again.to_json().expect("text"), written);
    expect![[r#"
        {
          "version": 1,
          "fam_onnx": "0.1.0",
          "source": {
            "name": "toy.onnx",
          },
          "opset": 17,
          "options": {
            "layer": [
              "fc"
            ],
            "lambda": 0.0
          },
          "layers": [
            {
              "name": "fc",
              "weight": "fc.weight",
              "d": 3,
              "m": 4,
              "lambda": 0.0,
              "lambda_input": null,
              "measure": "neuronwise",
              "estimator": "hutchinson",
              "probes": [
                {
                  "name": "probe.fc",
                  "shape": [
                    "batch",
                    4
                  ],
                  "distribution": "rademacher"
                }
              ]
            }
          ],
          "inputs": [
            "x"
          ],
          "labels": "labels",
          "loss": "softmax-cross-entropy",
          "parameters": [
            {
              "name": "fc.bias",
              "dtype": "float32",
              "shape": [
                3
              ],
              "trainable": true
            },
            {
              "name": "fc.weight",
              "dtype": "float32",
              "shape": [
                3,
                4
              ],
              "trainable": true
            }
          ],
          "state": [
            {
              "name": "fc.bias.momentum",
              "dtype": "float32",
              "shape": [
                3
              ]
            },
            {
              "name": "fc.weight.momentum",
              "dtype": "float32",
              "shape": [
                3,
                4
              ]
            }
          ],
          "graphs": {
            "gradient": {
              "path": "gradient.onnx",
              "loss": "loss",
              "kappa": [],
              "objective": "objective",
              "gradients": {
                "fc.bias": "fc.bias.grad",
                "fc.weight": "fc.weight.grad"
              }
            },
            "optimizer": {
              "path": "optimizer.onnx",
              "learning_rate": "learning_rate",
              "gradients": {
                "fc.bias": "fc.bias.grad",
                "fc.weight": "fc.weight.grad"
              },
              "updates": {
                "fc.bias": "fc.bias.next",
                "fc.bias.momentum": "fc.bias.momentum.next",
                "fc.weight": "fc.weight.next",
                "fc.weight.momentum": "fc.weight.momentum.next"
              }
            },
            "train": {
              "path": "train.onnx",
              "learning_rate": "learning_rate",
              "loss": "loss",
              "kappa": [],
              "objective": "objective",
              "updates": {
                "fc.bias": "fc.bias.next",
                "fc.bias.momentum": "fc.bias.momentum.next",
                "fc.weight": "fc.weight.next",
                "fc.weight.momentum": "fc.weight.momentum.next"
              }
            },
            "evaluate": {
              "path": "evaluate.onnx",
              "predictions": [
                "output"
              ],
              "loss": "loss",
              "kappa": [
                "kappa"
              ],
              "objective": "objective"
            }
          },
          "files": {
            "evaluate.onnx": {
            },
            "gradient.onnx": {
            },
            "model.onnx": {
            },
            "optimizer.onnx": {
            },
            "parameters.safetensors": {
            },
            "train.onnx": {
            }
          }
        }
    "#]]
    .assert_eq(
        &written.lines().map(|line| line.to_owned() + "\n").filter(|line| !line.contains("sha256")).collect::<String>(),
    );
}

#[test]
fn faults_are_named() {
    let (_directory, text) = toy();
    let error = |changes: &[(&str, &str)]| {
        let changed = changes.iter().fold(text.clone(), |text, (from, to)| {
            assert!(text.contains(from), "{from}");
            text.replace(from, to)
        });
        Manifest::parse(Path::new("manifest.json"), &changed).expect_err("a fault").to_string()
    };
    expect![
        "manifest.json: version 2, but this program reads version 1; use the fam-onnx that wrote it, or inject anew"
    ]
    .assert_eq(&error(&[("\"version\": 1", "\"version\": 2")]));
    expect!["manifest.json: not a manifest: invalid type: integer `3`, expected a sequence at line 37 column 13"]
        .assert_eq(&error(&[("\"inputs\": [", "\"inputs\": 3, \"x\": [")]));
    expect!["manifest.json: not a manifest: unknown element type `float33`; expected one of float32, uint8, int8, uint16, int16, int32, int64, bool, float16, float64, uint32, uint64, bfloat16, float8_e4m3fn, float8_e4m3fnuz, float8_e5m2, float8_e5m2fnuz, uint4, int4, float4_e2m1fn, float8_e8m0fnu, uint2, int2 at line 45 column 24"].assert_eq(&error(&[("float32", "float33")]));
    expect!["manifest.json: not a manifest: missing field `version` at line 148 column 1"]
        .assert_eq(&error(&[("\"version\": 1,", "")]));
    expect!["manifest.json: graphs.train has the path `../train.onnx`; expected the name of a file in the artifact's directory; graphs.optimizer.updates names `fc.biass`, which is neither a parameter nor a state tensor; graphs.train.updates names `fc.biass`, which is neither a parameter nor a state tensor; the trainable parameter `fc.bias` has no entry in graphs.train.updates; layer `fc` names `fc2.weight`, which is neither a parameter nor a state tensor; layer `fc` has λ = -0.5; expected a finite number ≥ 0; probe `probe.fc` has the symbolic dimension `sequence`; expected numbers and `batch` only"].assert_eq(&error(&[
        ("\"path\": \"train.onnx\"", "\"path\": \"../train.onnx\""),
        ("\"weight\": \"fc.weight\"", "\"weight\": \"fc2.weight\""),
        (
            "\"fc.bias\": \"fc.bias.next\"",
            "\"fc.biass\": \"fc.bias.next\"",
        ),
        ("\"batch\"", "\"sequence\""),
        (
            "\"lambda\": 0.0,\n      \"lambda_input\"",
            "\"lambda\": -0.5,\n      \"lambda_input\"",
        ),
    ]));
}

#[test]
fn a_changed_file_is_noticed() {
    let (directory, _) = toy();
    let artifact = directory.path().join("toy.fam");
    let manifest = Manifest::read(&artifact).expect("a manifest");
    manifest.verify_files(&artifact, &["train.onnx", "evaluate.onnx"]).expect("files as they were");
    std::fs::write(artifact.join("train.onnx"), "shorter").expect("a file");
    let error = manifest.verify_files(&artifact, &["train.onnx"]).expect_err("a changed file");
    assert!(matches!(error, Error::Files { .. }), "{error}");
}
