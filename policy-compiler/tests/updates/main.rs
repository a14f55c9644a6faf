//! Updates after random edits: each equals a cold compile, names every view that differs, and keeps equal parts.
//! `HEDDLE_UPDATES` is the number of runs.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[path = "../cluster/mod.rs"]
mod cluster;
mod edits;
mod past;
mod policies;
mod pool;
mod views;

use std::collections::BTreeMap;

use heddle_policy_compiler::{ObjectRef, ObjectRejection, World, WorldBuilder, compile};
use past::{object, with_past};
use pool::reference;
use proptest::prelude::*;
use serde_json::Value;
use views::{same_as_cold, says_what_it_did, views};

fn cases() -> u32 {
    let text = std::env::var("HEDDLE_UPDATES");
    text.ok().and_then(|text| text.parse().ok()).unwrap_or(40)
}

/// The objects of the pool, also with pasts.
fn pool() -> Vec<Value> {
    let mut pool = pool::pool();
    pool.extend(with_past(&pool));
    pool
}

#[derive(Clone, Debug)]
enum Edit {
    Apply(usize),
    Remove(usize),
    Reject(Vec<usize>),
    /// The root of the mesh has this trust domain.
    Root(&'static str),
}

fn edit() -> impl Strategy<Value = Edit> {
    let size = pool().len();
    prop_oneof![
        6 => (0..size).prop_map(Edit::Apply),
        2 => (0..size).prop_map(Edit::Remove),
        1 => prop::collection::vec(0..size, 0..3).prop_map(Edit::Reject),
        1 => prop_oneof![Just("cluster.local"), Just("other")].prop_map(Edit::Root),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn an_update_equals_a_cold_compile(seed in prop::collection::vec(edit(), 0..80), edits in prop::collection::vec(edit(), 1..8)) {
        let pool = pool();
        let mut builder = World::builder();
        let mut there: BTreeMap<ObjectRef, Value> = BTreeMap::new();
        let mut rejections = Vec::new();
        let mut root = None;
        let mut make = |builder: &mut WorldBuilder, edit: &Edit| match edit {
            Edit::Apply(index) => {
                builder.apply(object(pool[*index].clone()));
                there.insert(reference(&pool[*index]), pool[*index].clone());
            }
            Edit::Remove(index) => {
                builder.remove(&reference(&pool[*index]));
                there.remove(&reference(&pool[*index]));
            }
            Edit::Reject(indexes) => {
                rejections = indexes.iter().map(|i| ObjectRejection { object: reference(&pool[*i]), generation: pool[*i]["metadata"]["generation"].as_i64().unwrap_or(1), text: "no".to_owned() }).collect();
                builder.set_rejections(rejections.iter().cloned());
            }
            Edit::Root(trust_domain) => {
                builder.set_trust_domain(trust_domain);
                root = Some(*trust_domain);
            }
        };
        for edit in &seed {
            make(&mut builder, edit);
        }
        let mut compiled = compile(&builder.world());
        for edit in &edits {
            make(&mut builder, edit);
            let world = builder.world();
            // Views are made of a compile while it is the newest.
            let before = views(&compiled);
            let updated = compiled.update(&world);
            says_what_it_did(&compiled, &before, &updated)?;
            same_as_cold(&updated, &compile(&world))?;
            compiled = updated;
        }
        // A builder that never saw the removed objects.
        let mut fresh = World::builder();
        fresh.set_rejections(rejections);
        root.iter().for_each(|trust_domain| fresh.set_trust_domain(trust_domain));
        for value in there.into_values().rev() {
            fresh.apply(object(value));
        }
        same_as_cold(&compiled, &compile(&fresh.world()))?;
    }
}
