//! The evaluator of route tables and a real Envoy, held against each other on random tables and random requests.
//! `HEDDLE_ROUTES` is the number of tables.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[path = "../harness/mod.rs"]
mod harness;
mod random;
mod splits;
mod wire;

use anyhow::{Result, ensure};
use harness::running::{serve, spawn, status};
use heddle_policy_compiler::NamespacedName;
use heddle_policy_compiler::traffic::{Action, Backend, Request, RouteTable, Share, evaluate};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use random::{request, table};
use wire::{RESPONSE, bootstrap, echo, echoed, named_headers, of_tests, send};

const ENVOY: &str = "127.79.0.2";
const BACKENDS: usize = 4;
const REQUESTS: usize = 25;

fn port_of(index: usize) -> u16 {
    21_001 + u16::try_from(index).unwrap()
}

fn backend(index: usize) -> Backend {
    let port = heddle_policy_compiler::world::Port::METRICS;
    Backend::Service(NamespacedName::new("shop", &format!("b{index}")), port)
}

/// The difference between the answer of Envoy and the decision of the evaluator.
fn difference(table: &RouteTable, request: &Request, port: u16) -> Result<Option<String>> {
    let (head, body) = send(port, request)?;
    let (status, headers) = (status(&head), named_headers(&head));
    let header = |name: &str| {
        let found = headers.iter().find(|(own, _)| own == name);
        found.map(|(_, value)| value.clone())
    };
    let place = header("x-place");
    let Some(decision) = evaluate(table, request) else {
        return Ok(
            (status != 404 || place.is_some()).then(|| format!("404, not {status} {place:?}"))
        );
    };
    let mut places = table.hosts.iter().enumerate().flat_map(|(host, of)| {
        let entries = of.entries.iter().enumerate();
        entries.map(move |(index, entry)| (format!("{host}/{index}"), entry))
    });
    let own = places.find(|(_, entry)| std::ptr::eq(*entry, decision.entry));
    let own = own.map(|(place, _)| place);
    if own != place {
        return Ok(Some(format!("{own:?}, not {place:?} with {status} {body}")));
    }
    let seen = of_tests(headers.clone());
    let answered = |share: Option<&Share<'_>>, headers| {
        let answered = of_tests(decision.answered(share, headers));
        (answered != seen).then(|| format!("{answered:?}, not {seen:?}"))
    };
    let status_only = |own: u16| (own != status).then(|| format!("{own}, not {status}"));
    Ok(match &decision.rule().action {
        Action::Respond { status: own, .. } => {
            status_only(*own).or_else(|| answered(None, Vec::new()))
        }
        Action::Redirect(redirect) => {
            let (own, there) = (decision.location(request), header("location"));
            let location = (own != there).then(|| format!("{own:?}, not {there:?}"));
            let wrong = status_only(redirect.status.code()).or(location);
            wrong.or_else(|| answered(None, Vec::new()))
        }
        Action::Forward(_) if status == 500 => {
            let shares = decision.shares();
            let some = shares.is_empty() || shares.iter().any(|share| share.upstream.is_none());
            (!some).then(|| format!("{shares:?}, not 500"))
        }
        Action::Forward(_) => {
            let (name, head) = body.split_once("\r\n").unwrap_or_default();
            let shares = decision.shares();
            let named = |share: &&Share<'_>| share.upstream.is_some_and(|of| &*of.name == name);
            let Some(share) = shares.iter().find(named) else {
                return Ok(Some(format!("{shares:?}, not {status} {body}")));
            };
            let mut own = decision.forwarded(share, request);
            own.headers = of_tests(own.headers);
            let there = echoed(head);
            let forwarded =
                (Some(&own) != there.as_ref()).then(|| format!("{own:#?}, not {there:#?}"));
            let response = RESPONSE.map(|(name, value)| (name.to_owned(), value.to_owned()));
            forwarded.or_else(|| answered(Some(share), response.to_vec()))
        }
    })
}

#[test]
fn envoy_and_the_evaluator_agree_on_random_tables() -> Result<()> {
    let count = std::env::var("HEDDLE_ROUTES").ok();
    let count: usize = count.map_or(Ok(60), |count| count.parse())?;
    let mut runner = TestRunner::deterministic();
    let tables: Vec<RouteTable> = (0..count)
        .map(|_| table().new_tree(&mut runner).unwrap().current())
        .collect();
    for index in 0..BACKENDS {
        let at = format!("127.79.0.3:{}", port_of(index));
        serve(at, echo(format!("b{index}")))?;
    }
    let folder = tempfile::tempdir()?;
    let _envoy = spawn(
        "routes",
        &bootstrap(&tables),
        &[],
        folder.path(),
        "127.79.0.9:9901",
    )?;
    let mut rules = 0;
    for (index, table) in tables.iter().enumerate() {
        for _ in 0..REQUESTS {
            let request = request().new_tree(&mut runner).unwrap().current();
            rules += usize::from(evaluate(table, &request).is_some());
            let wrong = difference(table, &request, port_of(index))?;
            ensure!(
                wrong.is_none(),
                "{}\n{request:#?}\n{table:#?}",
                wrong.unwrap()
            );
        }
    }
    let all = count * REQUESTS;
    println!("{rules} of {all} requests have a rule");
    ensure!(
        rules * 3 > all,
        "only {rules} of {all} requests have a rule"
    );
    Ok(())
}
