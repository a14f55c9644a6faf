//! Makes the descriptors of Envoy's API, which envoy-types ships beside its sources, available to `include_bytes!`.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() -> Result<(), String> {
    let var = |name: &str| std::env::var(name).map_err(|error| format!("{name}: {error}"));
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=Cargo.toml");
    let descriptors = envoy_types(&var("CARGO")?, &var("CARGO_MANIFEST_DIR")?, &var("TARGET")?)?
        .join("src/generated/types.bin");
    println!("cargo::rerun-if-changed={}", descriptors.display());
    let target = Path::new(&var("OUT_DIR")?).join("envoy-types.bin");
    std::fs::copy(&descriptors, target)
        .map(|_| ())
        .map_err(|error| format!("{}: {error}", descriptors.display()))
}

/// The folder of the envoy-types in use: in the registry or vendored, only cargo knows.
fn envoy_types(cargo: &str, manifest: &str, target: &str) -> Result<PathBuf, String> {
    let metadata = Command::new(cargo)
        // Without the filter, cargo wants the sources of crates for other systems too.
        .args([
            "metadata",
            "--format-version=1",
            "--offline",
            "--filter-platform",
            target,
            "--manifest-path",
        ])
        .arg(Path::new(manifest).join("Cargo.toml"))
        .output()
        .map_err(|error| format!("cargo metadata: {error}"))?;
    if !metadata.status.success() {
        return Err(format!(
            "cargo metadata: {}",
            String::from_utf8_lossy(&metadata.stderr)
        ));
    }
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout)
        .map_err(|error| format!("cargo metadata: {error}"))?;
    let packages = metadata
        .get("packages")
        .and_then(|p| p.as_array())
        .ok_or("cargo metadata names no packages")?;
    let package = packages
        .iter()
        .find(|p| p.get("name").is_some_and(|name| name == "envoy-types"))
        .ok_or("envoy-types is no dependency")?;
    let path = package
        .get("manifest_path")
        .and_then(|p| p.as_str())
        .ok_or("envoy-types has no manifest path")?;
    Path::new(path)
        .parent()
        .map(Path::to_path_buf)
        .ok_or_else(|| format!("{path} has no folder"))
}
