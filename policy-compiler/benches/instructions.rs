//! The cost of compiles in instructions: 200 services of 10 pods each, with a split and a policy in each namespace.
//!
//! `cargo xtask instructions` counts them: it runs a case with no turns and with some, and the difference is the cost of the turns.
//! Without arguments this lists the cases, each with its number of turns.

mod mesh;

use std::collections::BTreeSet;
use std::hint::black_box;
use std::process::ExitCode;

use heddle_policy_compiler::{Compiled, Destination, KubeObject, World, WorldBuilder, compile};
use mesh::{
    PER_NAMESPACE, apply, destinations, everything, policy, populate, read, service, slice, split,
    view,
};
use serde_json::{Value, json};

const SERVICES: usize = 200;
/// Within a namespace: the service that has a split with its neighbor, one that has a policy, and one that has neither.
const SPLIT: usize = 2;
const GUARDED: usize = 5;
const PLAIN: usize = 7;
/// The namespace that is changed begins here.
const CHANGED: usize = 4 * PER_NAMESPACE;

/// One turn, by its number. Its inputs are made before.
type Turn = Box<dyn FnMut(usize)>;

struct Case {
    name: &'static str,
    /// So many that differences between runs, by hash seeds and the like, do not show.
    turns: usize,
    prepare: fn() -> Turn,
}

const CASES: &[Case] = &[
    Case {
        name: "compile-cold",
        turns: 3,
        prepare: cold,
    },
    Case {
        name: "compile-cold-bytes",
        turns: 1,
        prepare: cold_bytes,
    },
    Case {
        name: "update-annotation",
        turns: 1000,
        prepare: || update([service(CHANGED + PLAIN, 8080), annotated()], &[]),
    },
    Case {
        name: "update-endpoint",
        turns: 100,
        prepare: || {
            update(
                [false, true].map(|ready| slice(CHANGED + PLAIN, ready)),
                &["clients"],
            )
        },
    },
    Case {
        name: "update-policy",
        turns: 100,
        prepare: || {
            let callers = [2, 3].map(|turn| policy(CHANGED + GUARDED, turn));
            update(callers, &["policies", "inbound", "caller_filters"])
        },
    },
    Case {
        name: "update-policy-view",
        turns: 50,
        prepare: policy_and_view,
    },
    Case {
        name: "update-split",
        turns: 100,
        prepare: || {
            let weights = [2, 3].map(|turn| split(CHANGED + SPLIT, turn));
            update(weights, &["splits", "clients"])
        },
    },
    Case {
        name: "view-5",
        turns: 500,
        prepare: || held(5),
    },
    Case {
        name: "view-50",
        turns: 100,
        prepare: || held(50),
    },
];

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let turns = |text: String| text.parse::<usize>().ok();
    let (Some(name), Some(turns)) = (arguments.next(), arguments.next().and_then(turns)) else {
        for case in CASES {
            println!("{} {}", case.name, case.turns);
        }
        return ExitCode::SUCCESS;
    };
    let Some(case) = CASES.iter().find(|case| case.name == name) else {
        eprintln!("there is no case {name}");
        return ExitCode::FAILURE;
    };
    let mut turn = (case.prepare)();
    for number in 0..turns {
        turn(number);
    }
    // The teardown of the prepared values does not belong to any turn.
    std::process::exit(0)
}

fn builder() -> WorldBuilder {
    let mut builder = World::builder();
    for index in 0..SERVICES {
        populate(&mut builder, index);
    }
    for namespace in (0..SERVICES).step_by(PER_NAMESPACE) {
        apply(&mut builder, read(split(namespace + SPLIT, 1)));
        apply(&mut builder, read(policy(namespace + GUARDED, 1)));
    }
    builder
}

fn cold() -> Turn {
    let world = builder().world();
    Box::new(move |_| drop(black_box(compile(&world))))
}

fn cold_bytes() -> Turn {
    let world = builder().world();
    Box::new(move |_| {
        black_box(everything(&compile(&world), 0..SERVICES));
    })
}

/// One object changes, to and fro. `compiled` names all units that are compiled for that.
fn update(objects: [Value; 2], compiled: &'static [&'static str]) -> Turn {
    let mut edit = edit(objects);
    Box::new(move |number| {
        let after = edit(number);
        for (unit, count) in after.changes().recompiled.by_kind() {
            assert_eq!(count > 0, compiled.contains(&unit), "{unit}: {count}");
        }
    })
}

/// Returns, turn by turn, the compile with one object and with the other. The parts of the changed namespace are in use.
fn edit(objects: [Value; 2]) -> impl FnMut(usize) -> Compiled {
    let [even, odd] = objects.map(read);
    let mut builder = builder();
    let mut compiled = compile(&builder.world());
    let mut turn = move |number: usize| {
        let object: &Vec<KubeObject> = if number.is_multiple_of(2) {
            &even
        } else {
            &odd
        };
        apply(&mut builder, object.clone());
        compiled = compiled.update(&builder.world());
        compiled.clone()
    };
    // Both sides of the edit have been there before any turn is counted.
    for number in 0..2 {
        let bytes = everything(&turn(number), CHANGED..CHANGED + PER_NAMESPACE);
        assert!(bytes > 0, "there are no bytes");
    }
    turn
}

/// The service as it is, with a note on it.
fn annotated() -> Value {
    let mut service = service(CHANGED + PLAIN, 8080);
    if let Some(metadata) = service.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("annotations".to_owned(), json!({"example.com/note": "n"}));
    }
    service
}

/// The policy of a service changes, and one of its pods gets its new view.
fn policy_and_view() -> Turn {
    let index = CHANGED + GUARDED;
    let held = open_destinations(5);
    let mut edit = edit([2, 3].map(|turn| policy(index, turn)));
    // As the stream holds it.
    let mut last = None;
    Box::new(move |number| {
        drop(std::mem::replace(
            &mut last,
            view(&edit(number), index, &held),
        ));
    })
}

/// The view of a pod that holds so many destinations, when nothing has changed.
fn held(count: usize) -> Turn {
    let compiled = compile(&builder().world());
    let held = open_destinations(count);
    // As the stream holds it.
    let mut last = view(&compiled, 0, &held);
    Box::new(move |_| {
        let before = std::mem::replace(&mut last, view(&compiled, 0, &held));
        let parts = before.map_or(0, |view| view.parts.len());
        // The parts of every pod (the server's side, the cluster of its port, capture), and for each destination its clusters and its
        // listener.
        assert_eq!(parts, 3 + 2 * count);
    })
}

/// Services that deny no caller.
fn open_destinations(count: usize) -> BTreeSet<Destination> {
    let open = |index: &usize| index % PER_NAMESPACE != GUARDED;
    destinations((0..).filter(open).take(count))
}
