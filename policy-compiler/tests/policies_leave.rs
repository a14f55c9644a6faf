//! A `TrafficPolicy` comes and goes without a trace: no listener differs by it, the order of arrival makes no difference, and without it
//! every byte is as before.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod harness;

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use harness::{Seen, files, folder, is_input, read, views};
use heddle_policy_compiler::{Compiled, KubeObject, ObjectKind, ResourceKind, World, compile};

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

#[test]
fn policies_change_no_listener_in_any_order_and_restore_the_bytes() -> Result<()> {
    let before = arrived(&[])?;
    let listeners = Some(ResourceKind::Listener);
    let mut count = 0;
    for part in ["ok/traffic_policy", "err/traffic_policy"] {
        for file in files(&folder().join(part))?
            .into_iter()
            .filter(|f| is_input(f))
        {
            let name = file.display();
            let (mut objects, _) = read(&file)?;
            objects.retain(|object| match object {
                KubeObject::Declared(declared) => declared.object.kind == ObjectKind::TrafficPolicy,
                _ => false,
            });
            let with = arrived(&objects)?;
            let turned: Vec<_> = objects.iter().rev().cloned().collect();
            let other = arrived(&turned)?;
            ensure!(versions(&with, None) == versions(&other, None), "{name}");
            ensure!(with.statuses == other.statuses, "{name}");
            ensure!(
                versions(&with, listeners) == versions(&before, listeners),
                "{name}"
            );
            count += usize::from(versions(&with, None) != versions(&before, None));
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
            ensure!(
                versions(&compiled, None) == versions(&before, None),
                "{name}"
            );
        }
    }
    ensure!(count >= 3, "only {count} cases have an effect");
    Ok(())
}
