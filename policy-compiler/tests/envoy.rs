//! A real Envoy accepts every view as a static bootstrap through `envoy --mode validate`. The operator's tests show that the same
//! resources work over ADS.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod harness;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context, Result, ensure};
use heddle_policy_compiler::{Resource, compile, ingest, trial_bootstrap};
use rayon::prelude::*;

use crate::harness::{Case, Seen};

#[test]
fn envoy_accepts_every_view() -> Result<()> {
    let (envoy, folder) = (harness::envoy::binary()?, tempfile::tempdir()?);
    let seen = Mutex::default();
    let validate = |case: &Case| -> Result<Vec<String>> {
        let mut wrong = Vec::new();
        let (_, compiled) = harness::compile_case(case)?;
        for (pod, view) in harness::views(&compiled) {
            let Some(number) = number(&view, &seen) else {
                continue;
            };
            let file = folder.path().join(format!("{number}.json"));
            if let Some(error) = rejected(&envoy, &view, &file)? {
                wrong.push(format!("{} {pod}: {error}", case.name));
            }
        }
        Ok(wrong)
    };
    let cases = harness::cases()?;
    let wrong: Result<Vec<_>> = cases.par_iter().map(validate).collect();
    let wrong = wrong?.concat();
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// Returns a number for the view, or `None` if an earlier view has the same resources.
fn number(view: &Seen, seen: &Mutex<BTreeSet<Vec<String>>>) -> Option<usize> {
    let versions = view.resources.values().map(|r| r.version.to_string());
    let versions = versions.collect();
    let mut seen = seen.lock().unwrap();
    seen.insert(versions).then_some(seen.len())
}

/// Validates a view. If Envoy rejects it, keeps the bootstrap and returns its path with the error of Envoy.
fn rejected(envoy: &Path, view: &Seen, file: &Path) -> Result<Option<String>> {
    fs::write(
        file,
        serde_json::to_string(&harness::envoy::bootstrap(view))?,
    )?;
    let output = Command::new(envoy)
        .args(["--mode", "validate", "--log-level", "error", "-c"])
        .arg(file)
        .output()?;
    if output.status.success() {
        return Ok(None);
    }
    let mut kept = std::env::temp_dir().join("rejected-");
    kept.as_mut_os_string()
        .push(file.file_name().unwrap_or_default());
    fs::copy(file, &kept)?;
    let text = String::from_utf8_lossy(&output.stderr);
    Ok(Some(format!("{} {text}", kept.display())))
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
    let answers = harness::views(&compile(&world))
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
        answers
            .iter()
            .any(|(accepted, text)| !accepted && text.contains("missing ): (gold")),
        "{answers:?}"
    );
    Ok(())
}
