//! The steps of the demo, each with its expectations.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::apps::Answer;
use super::client::{self, Reply};
use super::edges;
use super::load::{Load, PER_SECOND, Tally};
use super::mesh::Mesh;
use super::status::ObjectStatus;
use super::term::Term;
use super::world::Change;

/// Counted requests of one phase. With 1500, a share is off by five standard deviations once in a million runs.
const REQUESTS: u64 = 1500;
const PHASE_TIMEOUT: Duration = Duration::from_secs(30);
/// A rejected object is tried in an Envoy of the control plane's own, which has half a minute.
const STATUS_TIMEOUT: Duration = Duration::from_secs(60);
/// The histograms of an Envoy have a request some seconds after its end.
const COUNTED: Duration = Duration::from_secs(20);
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Five standard deviations, in points: at 95/5, and at 50/50.
const POINTS_UNEVEN: f64 = 3.0;
const POINTS_EVEN: f64 = 6.5;
/// Requests a second that are refused while the demo is kept.
const REFUSED_PER_SECOND: u64 = 4;
/// Calls that judge a policy.
const CALLS: usize = 20;
/// How often batch makes them: once before the policy, and once for each [`judged`].
const BATCH_CALLS: usize = 4;

const SPLIT: (&str, &str, &str) = ("TrafficSplit", "shop", "reviews");
const STRICT: (&str, &str, &str) = ("AuthPolicy", "shop", "strict");
const CALLERS: (&str, &str, &str) = ("AuthPolicy", "shop", "ratings-callers");
const FAULTY: (&str, &str, &str) = ("TrafficSplit", "shop", "ratings");

/// Calls reviews as frontend, until it is dropped.
pub fn load(mesh: &Mesh<'_>) -> Load {
    let url = format!("http://{}/reviews", mesh.net.at(51, 9080));
    Load::start(&url, "reviews.shop", PER_SECOND)
}

/// Calls ratings as batch, which may not, until it is dropped.
pub fn refused_load(mesh: &Mesh<'_>) -> Load {
    let url = format!("http://{}/ratings", mesh.net.at(53, 8080));
    Load::start(&url, "ratings.shop", REFUSED_PER_SECOND)
}

/// All steps, under one steady load.
///
/// # Errors
/// A file cannot be written, a status does not come in time, a sidecar does not answer, or a process has ended.
pub async fn all(term: &mut Term, mesh: &mut Mesh<'_>) -> Result<()> {
    let load = load(mesh);
    let first = edges::read(&mesh.sidecars()).await?;
    split(term, mesh, &load).await?;
    identity(term, mesh).await?;
    policy(term, mesh).await?;
    faulty(term, mesh).await?;
    rejected(term, mesh).await?;
    let total = load.read();
    edges_table(term, mesh, &first, &total).await?;
    no_failures(term, "from the first to the last step", &total);
    mesh.children.all_alive()
}

/// A change is live when its status reports it; the time it took is part of the show.
async fn apply(
    mesh: &Mesh<'_>,
    change: Change,
    object: (&str, &str, &str),
    wanted: impl Fn(&ObjectStatus) -> bool,
) -> Result<(ObjectStatus, Duration)> {
    let before = mesh
        .status
        .read(object.0, object.1, object.2)
        .map_or(0, |status| status.generation());
    mesh.dir.apply(change)?;
    let started = std::time::Instant::now();
    let status = mesh
        .status
        .wait(object, STATUS_TIMEOUT, |status| {
            status.generation() > before && wanted(status)
        })
        .await?;
    Ok((status, started.elapsed()))
}

fn is_programmed(status: &ObjectStatus) -> bool {
    status.condition("Programmed").status == "True"
}

async fn split(term: &mut Term, mesh: &Mesh<'_>, load: &Load) -> Result<()> {
    term.step("Traffic splitting, moved and rolled back under load");
    term.note("frontend calls reviews up to 300 times a second; reviews calls ratings each time");
    let phases = [
        (Change::SplitMostlyV1, "95/5", 95.0, POINTS_UNEVEN),
        (Change::SplitEven, "50/50", 50.0, POINTS_EVEN),
        (Change::SplitMostlyV1, "95/5 again", 95.0, POINTS_UNEVEN),
    ];
    let before = load.read();
    for (change, title, wanted, points) in phases {
        let (status, took) = apply(mesh, change, SPLIT, is_programmed).await?;
        term.note(&format!(
            "{title}: Programmed on {} sidecars in {} ms",
            status.proxies(),
            took.as_millis()
        ));
        let tally = load.next(REQUESTS, PHASE_TIMEOUT).await;
        let share = share(&tally, "v1");
        let text = format!(
            "v1 {share:.1} %, v2 {:.1} % of {} requests",
            self::share(&tally, "v2"),
            tally.sent()
        );
        term.expect(
            (share - wanted).abs() <= points && tally.sent() >= REQUESTS,
            &text,
        );
    }
    no_failures(
        term,
        "while the split was applied, moved and rolled back",
        &load.read().since(&before),
    );
    Ok(())
}

fn share(tally: &Tally, version: &str) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "counts of a demo are small")]
    let share = 100.0 * tally.of(version) as f64 / tally.sent().max(1) as f64;
    share
}

fn no_failures(term: &mut Term, when: &str, tally: &Tally) {
    term.expect(
        tally.failed == 0 && tally.sent() > 0,
        &format!(
            "{} of {} requests failed {when}",
            tally.failed,
            tally.sent()
        ),
    );
    if tally.failed > 0 {
        term.block(&tally.errors.join("\n"));
    }
}

async fn identity(term: &mut Term, mesh: &Mesh<'_>) -> Result<()> {
    term.step("Mutual TLS with identities of our own CA");
    let reply = call(&mesh.net.at(51, 9080), "/reviews").await?;
    let answer: Answer = reply
        .json()
        .with_context(|| format!("reviews answered {} {}", reply.status, reply.text()))?;
    let callers = [
        ("reviews", "frontend", answer.peer.clone()),
        (
            "ratings",
            "reviews",
            answer.ratings.and_then(|ratings| ratings.peer),
        ),
    ];
    for (service, caller, header) in callers {
        let peer = header.as_deref().and_then(uri_of).unwrap_or("nobody");
        term.expect(
            peer == format!("spiffe://cluster.local/ns/shop/sa/{caller}"),
            &format!("{service} was called by {peer}"),
        );
    }
    let plain = mesh.net.at(21, 9080);
    let before = call(&plain, "/reviews").await;
    term.expect(
        status_of(&before) == Some(200),
        &format!(
            "Permissive: a caller in plain text is answered: {}",
            outcome(&before)
        ),
    );
    let (_, took) = apply(mesh, Change::Strict, STRICT, is_programmed).await?;
    term.note(&format!(
        "AuthPolicy with mtls.mode Strict applied: Programmed in {} ms",
        took.as_millis()
    ));
    let after = call(&plain, "/reviews").await;
    term.expect(
        after.is_err(),
        &format!("Strict: the same caller is refused: {}", outcome(&after)),
    );
    let meshed = call(&mesh.net.at(51, 9080), "/reviews").await;
    term.expect(
        status_of(&meshed) == Some(200),
        &format!("frontend, by mutual TLS: {}", outcome(&meshed)),
    );
    Ok(())
}

/// The caller's `URI=` of the last element of `x-forwarded-client-cert`: the one that our own sidecar saw.
fn uri_of(header: &str) -> Option<&str> {
    let element = header.rsplit(',').next()?;
    element
        .split(';')
        .find_map(|pair| pair.trim().strip_prefix("URI="))
        .map(|uri| uri.trim_matches('"'))
}

async fn policy(term: &mut Term, mesh: &Mesh<'_>) -> Result<()> {
    term.step("Authorization by identity");
    let batch = mesh.net.at(53, 8080);
    let before = calls(&batch, "/ratings").await;
    term.expect(
        before.answered(200) == CALLS,
        &format!("without a policy batch may call ratings: {before}"),
    );
    let (_, took) = apply(mesh, Change::RatingsCallers, CALLERS, is_programmed).await?;
    term.note(&format!(
        "AuthPolicy ratings-callers (only shop/reviews) applied: Programmed in {} ms",
        took.as_millis()
    ));
    judged(term, mesh).await;
    Ok(())
}

/// `reviews` in, everybody else out.
async fn judged(term: &mut Term, mesh: &Mesh<'_>) {
    for (who, address) in [
        ("batch", mesh.net.at(53, 8080)),
        ("frontend", mesh.net.at(52, 8080)),
    ] {
        let seen = calls(&address, "/ratings").await;
        term.expect(
            seen.answered(403) == CALLS,
            &format!("{who} calls ratings: {seen}"),
        );
    }
    let chain = calls(&mesh.net.at(51, 9080), "/reviews").await;
    term.expect(
        chain.answered(200) == CALLS,
        &format!("reviews calls ratings (behind frontend's call of reviews): {chain}"),
    );
}

async fn faulty(term: &mut Term, mesh: &Mesh<'_>) -> Result<()> {
    term.step("A faulty object is set aside and says so");
    term.note("TrafficSplit ratings names a service that does not exist:");
    let (status, _) = apply(mesh, Change::FaultySplit, FAULTY, |status| {
        status.condition("ResolvedRefs").status == "False"
    })
    .await?;
    let condition = status.condition("ResolvedRefs");
    term.block(&format!(
        "ResolvedRefs={} {}: {}",
        condition.status, condition.reason, condition.message
    ));
    term.expect(
        condition.message.contains("ratings-v9"),
        "its status names what is missing",
    );
    let (split, took) = apply(mesh, Change::SplitEven, SPLIT, is_programmed).await?;
    let text = format!(
        "another object is changed meanwhile: {} in force on {} sidecars in {} ms",
        split.weights(),
        split.proxies(),
        took.as_millis()
    );
    term.expect(split.weights() == "50/50", &text);
    judged(term, mesh).await;
    mesh.dir.remove(Change::FaultySplit)
}

async fn rejected(term: &mut Term, mesh: &Mesh<'_>) -> Result<()> {
    term.step(
        "What Envoy itself rejects comes back to the object, and the last good version stays",
    );
    term.note("AuthPolicy ratings-callers is given a broken regular expression:");
    let (status, took) = apply(mesh, Change::RejectedPolicy, CALLERS, |status| {
        status.condition("Programmed").reason == "RejectedByProxy"
    })
    .await?;
    let condition = status.condition("Programmed");
    term.block(&format!(
        "Programmed={} {} (after {} ms): {}",
        condition.status,
        condition.reason,
        took.as_millis(),
        condition.message
    ));
    term.expect(
        condition.status == "False",
        "its status carries Envoy's own words",
    );
    judged(term, mesh).await;
    let (_, took) = apply(mesh, Change::RatingsCallers, CALLERS, is_programmed).await?;
    term.expect(
        true,
        &format!("mended: Programmed again in {} ms", took.as_millis()),
    );
    Ok(())
}

async fn edges_table(
    term: &mut Term,
    mesh: &Mesh<'_>,
    first: &edges::Reading,
    total: &Tally,
) -> Result<()> {
    term.step("Who calls whom, from the proxies' own metrics");
    #[expect(clippy::cast_precision_loss, reason = "counts of a demo are small")]
    let (sent, refused) = (total.sent() as f64, (CALLS * BATCH_CALLS) as f64);
    let deadline = Instant::now() + COUNTED;
    // Each sidecar publishes its counts at a time of its own, so each count is waited for.
    let (now, reviews, ratings) = loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let late = Instant::now() > deadline;
        let now = match edges::read(&mesh.sidecars()).await {
            Err(_) if !late => continue,
            read => read?,
        };
        let reviews = now.requests("frontend-1", "reviews");
        let ratings = now.requests("batch-1", "ratings");
        if (reviews >= sent && ratings >= refused) || late {
            break (now, reviews, ratings);
        }
    };
    term.block(&edges::table(first, &now));
    term.expect(
        reviews >= sent,
        &format!("the proxies counted all {sent} requests of frontend ({reviews})"),
    );
    term.expect(
        refused.total_cmp(&ratings).is_eq(),
        &format!("and all {refused} of batch, refused ones included ({ratings})"),
    );
    Ok(())
}

/// The outcome of a number of calls.
struct Seen(std::collections::BTreeMap<String, usize>);

impl Seen {
    fn answered(&self, status: u16) -> usize {
        self.0.get(&status.to_string()).copied().unwrap_or(0)
    }
}

impl std::fmt::Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts: Vec<String> = self
            .0
            .iter()
            .map(|(outcome, count)| format!("{count} × {outcome}"))
            .collect();
        f.write_str(&parts.join(", "))
    }
}

async fn calls(address: &str, path: &str) -> Seen {
    let mut seen = std::collections::BTreeMap::new();
    for _ in 0..CALLS {
        let key = call(address, path).await.map_or_else(
            |error| format!("{error:#}"),
            |reply| reply.status.to_string(),
        );
        *seen.entry(key).or_default() += 1;
    }
    Seen(seen)
}

async fn call(address: &str, path: &str) -> Result<Reply> {
    client::get(
        &client::fresh(),
        &format!("http://{address}{path}"),
        address,
        CALL_TIMEOUT,
    )
    .await
}

fn status_of(result: &Result<Reply>) -> Option<u16> {
    result.as_ref().ok().map(|reply| reply.status)
}

fn outcome(result: &Result<Reply>) -> String {
    match result {
        Ok(reply) => reply.status.to_string(),
        Err(error) => format!("{error:#}"),
    }
}
