//! The time of a compile, and the memory of a pod: 10,000 services of 10 pods each, in namespaces of 10 services.
//!
//!     cargo bench -p heddle-policy-compiler

mod mesh;

use std::hint::black_box;
use std::time::{Duration, Instant};

use heddle_policy_compiler::{Compiled, World, WorldBuilder, compile};
use mesh::{PODS, apply, everything, pod, policy, populate, read, service, slice, split};
use serde_json::Value;

const SERVICES: usize = 10_000;

fn main() {
    let empty = resident();
    let mut builder = World::builder();
    let start = Instant::now();
    for index in 0..SERVICES {
        populate(&mut builder, index);
    }
    let world = builder.world();
    let objects = resident();
    println!(
        "{SERVICES} services of {PODS} pods read in {:?}",
        start.elapsed()
    );
    let cold = compile(&world);
    let compiled = resident();
    let pods = SERVICES * PODS;
    println!(
        "memory per pod: world {} B, compiled {} B",
        (objects - empty) / pods,
        (compiled - objects) / pods
    );

    measure(
        "cold compile",
        5,
        || compile(&world),
        |compiled| {
            drop(compiled);
        },
    );
    measure(
        "cold compile, all bytes made",
        3,
        || everything(&compile(&world), 0..SERVICES),
        drop,
    );
    println!("memory of all bytes: {} MB", {
        let made = everything(&cold, 0..SERVICES);
        black_box(made);
        (resident().saturating_sub(compiled)) >> 20
    });
    edits(&mut builder, &cold);
}

/// Single changes, each compiled alone.
fn edits(builder: &mut WorldBuilder, cold: &Compiled) {
    let mut edit = |name: &str, edits: &dyn Fn(usize) -> Value| {
        let mut compiled = cold.clone();
        let mut times = Vec::new();
        for turn in 0..200 {
            let value = edits(turn);
            let start = Instant::now();
            let objects = read(value);
            let reading = start.elapsed();
            let start = Instant::now();
            apply(builder, objects);
            compiled = compiled.update(&builder.world());
            times.push(start.elapsed());
            black_box(reading);
        }
        report(name, times);
        println!("    {:?}", compiled.changes().recompiled);
    };
    edit("one endpoint change", &|turn| slice(42, turn % 2 == 0));
    edit("one pod's readiness", &|turn| pod(42, 0, turn % 2 == 0));
    edit("one service change", &|turn| service(42, 8080 + turn % 2));
    edit("one policy change", &|turn| policy(42, turn % 2));
    edit("one split change", &|turn| split(42, turn % 2));
}

fn measure<T>(name: &str, runs: usize, mut run: impl FnMut() -> T, mut after: impl FnMut(T)) {
    let times = (0..runs).map(|_| {
        let start = Instant::now();
        let result = black_box(run());
        let took = start.elapsed();
        after(result);
        took
    });
    let times = times.collect();
    report(name, times);
}

fn report(name: &str, mut times: Vec<Duration>) {
    times.sort();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    let least = times.first().copied().unwrap_or_default();
    let most = times.last().copied().unwrap_or_default();
    println!("{name}: min {least:?}, median {median:?}, max {most:?}");
}

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
    kib.unwrap_or_default() * 1024
}
