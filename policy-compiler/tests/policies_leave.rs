//! A `TrafficPolicy` comes and goes without a trace: no listener differs by it, the order of arrival makes no difference, and without it
//! every byte is as before.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod harness;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use harness::{Seen, files, folder, is_input, read, views};
use heddle_policy_compiler::{Compiled, KubeObject, ObjectKind, ResourceKind, World, compile};
use rayon::prelude::*;

fn versions(compiled: &Compiled, kind: Option<ResourceKind>) -> BTreeMap<String, Vec<String>> {
    let of = |seen: Seen| {
        let resources = seen.resources.into_iter();
        let resources = resources.filter(|(key, _)| kind.is_none_or(|kind| key.kind == kind));
        let texts = resources.map(|(key, resource)| format!("{key:?} {}", resource.version));
        texts.collect()
    };
    let all = views(compiled).into_iter();
    all.map(|(pod, seen)| (pod, of(seen))).collect()
}

/// A compile of these objects, and by updates after each of them.
fn arrived(objects: &[KubeObject]) -> Result<Compiled> {
    let mut builder = World::builder();
    for object in harness::base()? {
        builder.apply(object);
    }
    let mut compiled = compile(&builder.world());
    for object in objects {
        builder.apply(object.clone());
        compiled = compiled.update(&builder.world());
    }
    let cold = compile(&builder.world());
    ensure!(versions(&compiled, None) == versions(&cold, None));
    ensure!(compiled.statuses == cold.statuses);
    Ok(compiled)
}

/// Whether the policies of a case have an effect.
fn leaves_no_trace(file: &Path, before: &Compiled) -> Result<bool> {
    let (mut objects, _) = read(file)?;
    objects.retain(|object| match object {
        KubeObject::Declared(declared) => declared.object.kind == ObjectKind::TrafficPolicy,
        _ => false,
    });
    let with = arrived(&objects)?;
    let turned: Vec<_> = objects.iter().rev().cloned().collect();
    let other = arrived(&turned)?;
    ensure!(versions(&with, None) == versions(&other, None));
    ensure!(with.statuses == other.statuses);
    let listeners = Some(ResourceKind::Listener);
    ensure!(versions(&with, listeners) == versions(before, listeners));
    let mut builder = World::builder();
    for object in harness::base()?.into_iter().chain(objects.clone()) {
        builder.apply(object);
    }
    let mut compiled = compile(&builder.world());
    for object in &objects {
        if let KubeObject::Declared(declared) = object {
            builder.remove(&declared.object);
            compiled = compiled.update(&builder.world());
        }
    }
    let before = versions(before, None);
    ensure!(versions(&compiled, None) == before);
    Ok(versions(&with, None) != before)
}

#[test]
fn policies_change_no_listener_in_any_order_and_restore_the_bytes() -> Result<()> {
    let before = arrived(&[])?;
    let mut inputs = files(&folder().join("ok/traffic_policy"))?;
    inputs.extend(files(&folder().join("err/traffic_policy"))?);
    inputs.retain(|file| is_input(file));
    let leaves =
        |file: &PathBuf| leaves_no_trace(file, &before).with_context(|| file.display().to_string());
    let effects: Result<Vec<bool>> = inputs.par_iter().map(leaves).collect();
    let count = effects?.into_iter().filter(|effect| *effect).count();
    ensure!(count >= 3, "only {count} cases have an effect");
    Ok(())
}
