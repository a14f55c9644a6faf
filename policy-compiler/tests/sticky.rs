//! Sticky splits with a real Envoy: while the new version grows, no user goes back from it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod harness;

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use harness::running::{Envoy, Trust, http, mirror_as, serve, start, status};
use harness::shop;
use heddle_policy_compiler::traffic::{Backend, Request, evaluate};
use heddle_policy_compiler::{Compiled, NamespacedName};

const AT: &str = "127.96.0.5:8001";
const USERS: usize = 250;

/// The split with a share of the new version in percent, with so many endpoints of each version.
fn compiled(sticky: &str, percent: u32, endpoints: usize) -> Result<Compiled> {
    let mut text = format!(
        "
apiVersion: heddle.dev/v1alpha1
kind: TrafficSplit
metadata: {{name: api, namespace: shop}}
spec:
  service: api
  sticky: {sticky}
  backends:
  - {{service: api-v1, weight: {}}}
  - {{service: api-v2, weight: {percent}}}
",
        100 - percent
    );
    text += &shop::service("api", 0, ("http", 8001), &["127.96.0.11"]);
    for version in 1..=2_usize {
        let of = |number: usize| format!("127.96.{version}.{}", 11 + number);
        let all: Vec<String> = (0..endpoints).map(of).collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        text += &shop::service(&format!("api-v{version}"), version, ("http", 8001), &all);
    }
    text += &shop::client("127.96.0", &[format!("shop/api:8001={AT}")]);
    let compiled = harness::compiled(&text);
    ensure!(compiled.findings.is_empty(), "{:#?}", compiled.findings);
    Ok(compiled)
}

/// The client's sidecar.
fn envoy(compiled: &Compiled, trust: &Trust, folder: &Path) -> Result<Envoy> {
    let none = BTreeSet::new();
    start(
        compiled,
        ("client", &none),
        trust,
        folder,
        "127.96.0.9:9901",
        |_| {},
    )
}

/// The version that answers, and the value of `Set-Cookie`.
fn call(headers: &str) -> Result<(u8, Option<String>)> {
    let answer = http(AT, "GET", "/", headers)?;
    ensure!(status(&answer) == 200, "{answer}");
    let lines: Vec<&str> = answer.lines().collect();
    let value = |name: &str| lines.iter().find_map(|line| line.strip_prefix(name));
    let version = value("x-version: ").context("no version")?.parse()?;
    let set = value("set-cookie: ");
    Ok((version, set.map(str::to_owned)))
}

fn versions() -> Result<()> {
    for version in 1..=2 {
        for number in 0..3 {
            let answer = format!("x-version: {version}\r\n");
            serve(
                format!("127.96.{version}.{}:8001", 11 + number),
                move |stream| {
                    mirror_as(stream, "200 OK", &answer);
                },
            )?;
        }
    }
    Ok(())
}

/// The versions that the evaluator expects for a request.
fn expected(compiled: &Compiled, headers: &str) -> Vec<String> {
    let service = NamespacedName::new("shop", "api");
    let (_, table) = compiled.route_tables(&service).next().unwrap();
    let lines = headers.lines().filter_map(|line| line.split_once(": "));
    let request = Request {
        host: "api".to_owned(),
        method: "GET".to_owned(),
        path: "/".to_owned(),
        headers: lines.map(|(n, v)| (n.to_owned(), v.to_owned())).collect(),
    };
    let decision = evaluate(table, &request).unwrap();
    let shares = decision.shares();
    let kept = decision.kept_share(&request);
    let shares = shares.iter().enumerate();
    let shares = shares.filter(|(index, _)| kept.is_none_or(|kept| kept == *index));
    let name = |backend: &Backend| match backend {
        Backend::Service(name, _) => name.name.to_string(),
        _ => String::new(),
    };
    shares.map(|(_, share)| name(share.backend)).collect()
}

/// Holds two steps of a rollout against each other: the versions of each user.
fn hold(before: &[u8], after: &[u8], percent: usize) -> Result<()> {
    let back = before
        .iter()
        .zip(after)
        .filter(|(a, b)| (**a, **b) == (2, 1));
    ensure!(back.count() == 0, "a user went back");
    let new = after.iter().filter(|version| **version == 2).count();
    // Five standard deviations of 250 users at 50 %.
    let most = USERS * percent / 100 + 40;
    let least = (USERS * percent / 100).saturating_sub(40);
    ensure!(
        (least..=most).contains(&new),
        "{new} of {USERS} at {percent} %"
    );
    Ok(())
}

#[test]
fn no_user_goes_back_while_the_new_version_grows_and_endpoints_change() -> Result<()> {
    let (trust, folder) = (Trust::new()?, tempfile::tempdir()?);
    versions()?;
    let steps = [(10, 2), (10, 3), (30, 3), (30, 1), (50, 2)];

    // By a header.
    let mut before: Option<Vec<u8>> = None;
    for (percent, endpoints) in steps {
        let compiled = compiled("{header: X-User}", percent, endpoints)?;
        let _envoy = envoy(&compiled, &trust, folder.path())?;
        let version = |user: usize| Ok(call(&format!("x-user: user-{user}\r\n"))?.0);
        let all: Vec<u8> = (0..USERS).map(version).collect::<Result<_>>()?;
        let again: Vec<u8> = (0..USERS).map(version).collect::<Result<_>>()?;
        ensure!(all == again, "a user has two versions at {percent} %");
        hold(before.as_ref().unwrap_or(&all), &all, percent as usize)?;
        before = Some(all);
        // Without the header each request gets a backend by itself.
        let anonymous: Vec<u8> = (0..USERS).map(|_| Ok(call("")?.0)).collect::<Result<_>>()?;
        hold(&vec![1; USERS], &anonymous, percent as usize)?;
    }

    // By a cookie, which the first answer sets.
    let sticky = "{cookie: {name: heddle-api, maxAge: 24h}}";
    let mut cookies = vec![None; USERS];
    let mut before: Option<Vec<u8>> = None;
    for (percent, endpoints) in steps {
        let compiled = compiled(sticky, percent, endpoints)?;
        let _envoy = envoy(&compiled, &trust, folder.path())?;
        let mut all = Vec::new();
        for cookie in &mut cookies {
            if cookie.is_none() {
                let (version, set) = call("cookie: other=1\r\n")?;
                let set = set.context("no cookie")?;
                let (value, attributes) = set.split_once("; ").context("no attributes")?;
                ensure!(
                    attributes == "Path=/; Max-Age=86400; HttpOnly; SameSite=Lax",
                    "{set}"
                );
                let header = format!("cookie: other=1; {value}\r\n");
                let share = expected(&compiled, &header);
                ensure!(share == [format!("api-v{version}")], "{set}: {share:?}");
                *cookie = Some(header);
            }
            let header = cookie.as_deref().unwrap_or_default();
            let (version, set) = call(header)?;
            ensure!(set.is_none(), "a second cookie: {set:?}");
            let share = expected(&compiled, header);
            ensure!(share == [format!("api-v{version}")], "{header}: {share:?}");
            all.push(version);
        }
        hold(before.as_ref().unwrap_or(&all), &all, percent as usize)?;
        before = Some(all);
        // A value that is not one of ours is replaced.
        let (_, set) = call("cookie: heddle-api=100\r\n")?;
        ensure!(set.is_some(), "the value 100 stays");
    }
    Ok(())
}
