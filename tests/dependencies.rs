//! What `deny.toml` asks of dependencies, as far as it can be judged without a network: licences and sources.

use serde_json::Value;
use std::process::Command;

/// Whether a licence expression is met by the allowed ones: of `OR` one alternative, of `AND` every part.
fn is_allowed(expression: &str, allowed: &[&str]) -> bool {
    let expression = expression.replace(['(', ')'], "").replace(" / ", " OR ").replace('/', " OR ");
    expression.split(" AND ").all(|part| part.split(" OR ").any(|license| allowed.contains(&license.trim())))
}

#[test]
fn licences_and_sources() {
    let root = env!("CARGO_MANIFEST_DIR");
    let deny: toml::Table =
        std::fs::read_to_string(format!("{root}/deny.toml")).expect("deny.toml").parse().expect("TOML");
    let allowed: Vec<&str> =
        deny["licenses"]["allow"].as_array().expect("a list").iter().filter_map(|l| l.as_str()).collect();
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--format-version", "1"])
        .current_dir(root)
        .output()
        .expect("cargo");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    assert!(packages.len() > 100);
    for package in packages {
        let license = package["license"].as_str().unwrap_or("none");
        assert!(is_allowed(license, &allowed), "{} has the licence {license}", package["name"]);
        // This package itself has no source.
        let source = package["source"].as_str().unwrap_or("registry+");
        assert!(source.starts_with("registry+"), "{} comes from {source}", package["name"]);
    }
}
