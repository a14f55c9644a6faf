//! A real Envoy accepts what comes out: every view as a static bootstrap through `envoy --mode validate`. That the same resources work
//! over ADS, the operator's tests show.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod harness;

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};

#[test]
fn envoy_accepts_every_view() -> Result<()> {
    let envoy = harness::envoy::binary()?;
    let folder = tempfile::tempdir()?;
    let mut seen = BTreeSet::new();
    let mut wrong = Vec::new();
    for case in harness::cases()? {
        let (_, compiled) = harness::compile_case(&case)?;
        for (pod, view) in harness::views(&compiled) {
            let versions: Vec<String> = view
                .resources
                .values()
                .map(|r| r.version.to_string())
                .collect();
            if !seen.insert(versions) {
                continue;
            }
            let file = folder.path().join(format!("{}.json", seen.len()));
            fs::write(
                &file,
                serde_json::to_string(&harness::envoy::bootstrap(&view))?,
            )?;
            let output = Command::new(&envoy)
                .args(["--mode", "validate", "--log-level", "error", "-c"])
                .arg(&file)
                .output()?;
            if !output.status.success() {
                let kept = std::env::temp_dir().join(format!("refused-{}.json", seen.len()));
                fs::copy(&file, &kept)?;
                wrong.push(format!(
                    "{} {pod} ({}): {}",
                    case.name,
                    kept.display(),
                    String::from_utf8_lossy(&output.stderr)
                ));
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// So that a moved test does not pass for want of cases.
#[test]
fn there_are_views() -> Result<()> {
    let case = harness::cases()?.into_iter().next().context("no cases")?;
    let (_, compiled) = harness::compile_case(&case)?;
    ensure!(!harness::views(&compiled).is_empty());
    Ok(())
}
