//! A real Envoy accepts every view as a static bootstrap through `envoy --mode validate`. The operator's tests show that the same
//! resources work over ADS.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod harness;

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use heddle_policy_compiler::{Resource, compile, ingest, trial_bootstrap};

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

/// Every resource of a case passes its trial alone; a resource with a broken value fails it.
#[test]
fn a_trial_tells_a_broken_resource_from_sound_ones() -> Result<()> {
    let envoy = harness::envoy::binary()?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("trial.pb");
    let validate = |resource: Option<&Resource>| -> Result<(bool, String)> {
        fs::write(&file, trial_bootstrap(resource).context("not a message")?)?;
        let output = Command::new(&envoy)
            .args(["--mode", "validate", "--log-level", "error", "-c"])
            .arg(&file)
            .env_clear()
            .output()?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok((output.status.success(), text))
    };
    ensure!(validate(None)?.0, "without a resource");
    let (mut sound, mut kinds) = (BTreeSet::new(), BTreeSet::new());
    for case in harness::cases()?.into_iter().take(3) {
        let (_, compiled) = harness::compile_case(&case)?;
        for (_, view) in harness::views(&compiled) {
            for resource in view.resources.values() {
                // One of each shape: names differ behind the first bar, kinds of callers and ports before it.
                let shape = resource
                    .key
                    .name
                    .split('|')
                    .next()
                    .unwrap_or_default()
                    .to_owned();
                if sound.insert((resource.key.kind, shape, !resource.origins.is_empty())) {
                    let (accepted, text) = validate(Some(resource))?;
                    ensure!(accepted, "{} {}: {text}", case.name, resource.key);
                    kinds.insert(resource.key.kind);
                }
            }
        }
    }
    ensure!(kinds.len() == 5, "cases of every kind: {kinds:?}");

    let broken = "
apiVersion: heddle.dev/v1alpha1
kind: AuthPolicy
metadata: {name: broken, namespace: shop}
spec: {rules: [{to: {headers: [{name: x-tier, regex: '(gold'}]}}]}
";
    let (broken, _) = ingest::parse_yaml("broken.yaml", broken).into_objects();
    let (world, _) = harness::world(harness::base()?.into_iter().chain(broken));
    let refused = harness::views(&compile(&world))
        .into_values()
        .flat_map(|view| view.resources.into_values())
        .filter(|resource| {
            resource
                .origins
                .iter()
                .any(|object| &*object.name == "broken")
        })
        .map(|resource| validate(Some(&resource)))
        .collect::<Result<Vec<_>>>()?;
    ensure!(
        refused
            .iter()
            .any(|(accepted, text)| !accepted && text.contains("missing ): (gold")),
        "{refused:?}"
    );
    Ok(())
}
