//! The evaluator of route tables and a real Envoy, held against each other on random tables and random requests.
//! `HEDDLE_ROUTES` is the number of tables, `HEDDLE_SEED` repeats a run.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod copies;
mod expected;
mod features;
#[path = "../harness/mod.rs"]
mod harness;
mod random;
mod shrink;
mod splits;
mod wire;

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use copies::Copies;
use expected::{Seen, expected, seen};
use harness::running::{Envoy, serve, spawn};
use heddle_policy_compiler::NamespacedName;
use heddle_policy_compiler::traffic::{Action, Backend, Request, RouteTable, Sticky, evaluate};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use random::{request, table};
use tempfile::TempDir;
use wire::{bootstrap, echo};

const ENVOY: &str = "127.79.0.2";
/// The endpoints of each backend.
const APPLICATIONS: [&str; 2] = ["127.79.0.3", "127.79.0.4"];
const MIRRORS: &str = "127.79.0.5";
const STICKY_HEADER: &str = "x-a";
const BACKENDS: usize = 4;
const REQUESTS: usize = 25;
/// The tables of one Envoy.
const TABLES: usize = 60;

fn port_of(index: usize) -> u16 {
    21_001 + u16::try_from(index).unwrap()
}

fn backend(index: usize) -> Backend {
    let port = heddle_policy_compiler::world::Port::METRICS;
    Backend::Service(NamespacedName::new("shop", &format!("b{index}")), port)
}

/// An Envoy with some tables.
fn envoy(tables: &[RouteTable]) -> Result<(Envoy, TempDir)> {
    let folder = tempfile::tempdir()?;
    let config = bootstrap(tables);
    let envoy = spawn("routes", &config, &[], folder.path(), "127.79.0.9:9901")?;
    Ok((envoy, folder))
}

/// Requests and their answers.
struct Calls {
    copies: Copies,
    sent: usize,
    /// The kinds of answers that the run has seen.
    met: Met,
}

#[derive(Debug, Default)]
struct Met {
    rules: usize,
    faults: usize,
    preflights: usize,
    consents: usize,
    copies: usize,
    places: usize,
    sessions: usize,
}

impl Calls {
    /// The difference between the answer of Envoy and those that the evaluator allows, with the answer.
    fn call(
        &mut self,
        table: &RouteTable,
        request: &Request,
        port: u16,
    ) -> Result<(Seen, Option<String>)> {
        self.sent += 1;
        let id = self.sent.to_string();
        let seen = seen(port, &id, request)?;
        let all = expected(table, request);
        let Some(own) = all.iter().find(|own| own.allows(&seen)) else {
            let difference = format!("one of {all:#?}, not {seen:#?}");
            return Ok((seen, Some(difference)));
        };
        self.met.count(table, request, &seen);
        let forwarded = seen.answer.forwarded.is_some();
        let mirrors = if forwarded { &*own.mirrors } else { &[] };
        self.met.copies += mirrors.len();
        let copies = self.copies.compare(&id, table, mirrors)?;
        Ok((seen, copies.or_else(|| self.copies.unexpected())))
    }

    /// The same, and then the calls of a client that keeps the cookie or the header of the answer.
    fn calls(
        &mut self,
        table: &RouteTable,
        request: &Request,
        port: u16,
    ) -> Result<Option<String>> {
        let (first, difference) = self.call(table, request, port)?;
        if difference.is_some() || first.answer.forwarded.is_none() {
            return Ok(difference);
        }
        let decision = evaluate(table, request).unwrap();
        let mut again = request.clone();
        if let Some(set) = first.set_cookie.first() {
            let pair = set.split(';').next().unwrap_or_default();
            again.headers.push(("cookie".to_owned(), pair.to_owned()));
        }
        if let Some(token) = &first.session_header {
            again.headers.push(("x-session".to_owned(), token.clone()));
        }
        let by_header = matches!(decision.rule().sticky(), Some(Sticky::Header(_)))
            && request
                .headers
                .iter()
                .any(|(name, _)| name == STICKY_HEADER);
        if again == *request && !by_header {
            return Ok(None);
        }
        let (second, difference) = self.call(table, &again, port)?;
        if difference.is_some() || second.answer.forwarded.is_none() {
            return Ok(difference);
        }
        // The rule may be another one, if it looks at cookies, or at one that the request had already.
        let kept = evaluate(table, &again).filter(|of| std::ptr::eq(of.entry, decision.entry));
        let Some(kept) = kept else { return Ok(None) };
        let known = kept.kept_share(&again).is_some() || by_header;
        let only = matches!(&kept.rule().action, Action::Forward(of) if of.backends.len() == 1);
        let session =
            kept.rule().session().is_some() && (only || kept.session_share(&again).is_some());
        let backend = |of: &Seen| of.answer.forwarded.as_ref().map(|(name, _)| name.clone());
        let moved = (known || session) && backend(&first) != backend(&second);
        let new_token = !second.set_cookie.is_empty() || second.session_header.is_some();
        let lost = session && (first.endpoint != second.endpoint || new_token);
        self.met.places += usize::from(known);
        self.met.sessions += usize::from(session);
        let text = || format!("{again:#?} went to {second:#?}, after {first:#?}");
        Ok((moved || lost).then(text))
    }
}

impl Met {
    fn count(&mut self, table: &RouteTable, request: &Request, seen: &Seen) {
        let Some(decision) = evaluate(table, request) else {
            return;
        };
        let preflight = decision.preflight(request).is_some();
        let mut aborts = decision.faults(request).filter_map(|of| of.abort);
        self.rules += 1;
        self.preflights += usize::from(preflight);
        self.consents += usize::from(!preflight && !seen.answer.consent.is_empty());
        self.faults += usize::from(!preflight && aborts.any(|of| of.percent == 100));
    }

    fn least(&self) -> usize {
        let all = [
            self.faults,
            self.preflights,
            self.consents,
            self.copies,
            self.places,
            self.sessions,
        ];
        all.into_iter().min().unwrap_or_default()
    }
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn runner(seed: u64) -> TestRunner {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    TestRunner::new_with_rng(Config::default(), random)
}

#[test]
fn envoy_and_the_evaluator_agree_on_random_tables() -> Result<()> {
    let count = usize::try_from(setting("HEDDLE_ROUTES").unwrap_or(TABLES as u64))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    // A run of every change is the same each time; the long one of `make nightly` looks elsewhere each time.
    let seed = setting("HEDDLE_SEED").unwrap_or(if count > TABLES { now } else { 1 });
    let mut runner = runner(seed);
    for ip in APPLICATIONS {
        for index in 0..BACKENDS {
            let at = format!("{ip}:{}", port_of(index));
            serve(at.clone(), echo(format!("b{index} {at}")))?;
        }
    }
    let mut calls = Calls {
        copies: Copies::serve()?,
        sent: 0,
        met: Met::default(),
    };
    let mut all = 0;
    while all < count * REQUESTS {
        let few = TABLES.min(count - all / REQUESTS);
        let tables: Vec<RouteTable> = (0..few)
            .map(|_| table().new_tree(&mut runner).unwrap().current())
            .collect();
        let running = envoy(&tables)?;
        for (index, table) in tables.iter().enumerate() {
            for _ in 0..REQUESTS {
                let request = request().new_tree(&mut runner).unwrap().current();
                all += 1;
                if let Some(wrong) = calls.calls(table, &request, port_of(index))? {
                    drop(running);
                    let (table, request, smaller) = shrink::shrunk(table, &request, &mut calls)?;
                    anyhow::bail!(
                        "HEDDLE_SEED={seed} HEDDLE_ROUTES={count}: {wrong}\nthe smallest: {smaller}\n{request:#?}\n{table:#?}"
                    );
                }
            }
        }
    }
    let unexpected = calls.copies.unexpected();
    ensure!(unexpected.is_none(), "HEDDLE_SEED={seed}: {unexpected:?}");
    let met = &calls.met;
    println!(
        "{} of {all} requests have a rule: {met:?} (HEDDLE_SEED={seed})",
        met.rules
    );
    ensure!(met.rules * 3 > all, "only {met:?} of {all}");
    ensure!(
        met.least() * 200 > count,
        "too little of something: {met:?}"
    );
    Ok(())
}
