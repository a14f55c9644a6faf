//! `heddle tap`: live requests of a namespace or a workload.

mod follow;
mod seen;
mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use heddle_acceptor::clean;
use heddle_xds_types::tap::{MAX_PER_SECOND, MAX_SECONDS, Sides, TapFilter, TapRequest};
use tokio::sync::mpsc;
use tokio::task::{JoinSet, LocalSet};
use tokio_util::sync::CancellationToken;

use crate::cluster::ClusterArgs;
use crate::dashboard::secret;
use crate::edges::live::{PlaceArgs, Source};
use crate::out::Format;
use crate::replicas::Way;
use crate::rollout::name_of;
use follow::{MARGIN, News, Replica, TAPPER, follow};
use seen::Seen;

/// The socket in the runtime folder of a standalone control plane.
const SOCKET: &str = "tap.sock";
/// The time between two looks for new replicas.
const LOOK: Duration = Duration::from_secs(10);
/// The time for a look at the end.
const LAST_LOOK: Duration = Duration::from_secs(5);
/// Answers that wait to be printed.
const QUEUE: usize = 16;
/// The longest reason of a replica, in characters.
const MAX_REASON: usize = 1000;

/// The side of the requests that are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Side {
    /// Requests that the workloads received.
    Server,
    /// Requests that the workloads made.
    Client,
    /// All of them.
    Both,
}

/// Options of `heddle tap`.
#[derive(Args, Debug)]
pub struct TapArgs {
    /// The namespace, and a workload in it: `shop`, `shop/reviews` or `shop/deploy/reviews`.
    #[arg(value_name = "NAMESPACE[/WORKLOAD]")]
    target: String,
    /// Only of this caller: NAMESPACE, NAMESPACE/WORKLOAD or NAMESPACE/SERVICE-ACCOUNT; `outside` for callers without an identity.
    #[arg(long, value_name = "CALLER")]
    from: Option<String>,
    /// Only with this method.
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,
    /// Only with a path that begins so.
    #[arg(long, value_name = "PREFIX")]
    path: Option<String>,
    /// Only with this status, such as 503, or class, such as 5xx.
    #[arg(long, value_name = "STATUS")]
    status: Option<String>,
    /// Only requests that took so many milliseconds, or longer.
    #[arg(long, value_name = "MILLISECONDS")]
    min_duration: Option<u64>,
    /// Requests that the workloads received (server), that they made (client), or both.
    #[arg(long, value_enum, default_value_t = Side::Server)]
    side: Side,
    /// Show this request header; may be given again. Headers with credentials are refused.
    #[arg(long = "header", value_name = "NAME")]
    headers: Vec<String>,
    /// Show queries, with the values of parameters with sensitive names replaced.
    #[arg(long)]
    query: bool,
    /// End after so many requests.
    #[arg(long, value_name = "NUMBER")]
    max: Option<u64>,
    /// The requests that each sidecar reports in a second, at most; the rest is counted.
    #[arg(long, value_name = "NUMBER", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_PER_SECOND)))]
    rate: u32,
    /// End after so many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=MAX_SECONDS - MARGIN))]
    timeout: u64,
    /// How to print: JSON in one line each, YAML as several documents.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
    #[command(flatten)]
    place: PlaceArgs,
}

/// Runs the command.
///
/// # Errors
/// When no replica serves the tap, or one could not be asked.
pub async fn run(args: &TapArgs) -> Result<()> {
    // The futures of kubeconfig's credentials stay on their thread.
    LocalSet::new().run_until(tap(args)).await
}

async fn tap(args: &TapArgs) -> Result<()> {
    let request = request(args).await?;
    let until = Instant::now() + Duration::from_secs(args.timeout);
    let (news, mut incoming) = mpsc::channel(QUEUE);
    let over = CancellationToken::new();
    let mut taps = Taps {
        source: args.place.source(),
        request,
        until,
        news,
        over: over.clone(),
        followed: BTreeMap::new(),
        tasks: JoinSet::new(),
    };
    let mut seen = Seen::new(args);
    taps.look(&mut seen).await?;
    let mut looks = tokio::time::interval(LOOK);
    let result = loop {
        tokio::select! {
            Some((replica, news)) = incoming.recv() => {
                let whole = !seen.is_partial();
                match seen.take(replica, news) {
                    // Its sidecars may go to a replica that is new.
                    Ok(true) if whole && seen.is_partial() => looks.reset_immediately(),
                    Ok(true) => {}
                    Ok(false) => break Ok(()),
                    Err(error) => break Err(error),
                }
            }
            _ = looks.tick() => if let Err(error) = taps.look(&mut seen).await {
                crate::out::note!("heddle: {}", clean(&format!("{error:#}"), MAX_REASON));
            },
            () = tokio::time::sleep_until(until.into()) => break Ok(()),
            _ = tokio::signal::ctrl_c() => break Ok(()),
        }
    };
    // A replica that went since the last look is not missing.
    if seen.is_partial() {
        let _ = tokio::time::timeout(LAST_LOOK, taps.look(&mut seen)).await;
    }
    over.cancel();
    // Rows on the way hold no task up.
    drop(incoming);
    while taps.tasks.join_next().await.is_some() {}
    result?;
    seen.verdict()
}

async fn request(args: &TapArgs) -> Result<TapRequest> {
    let (namespace, workload) = target(&args.target)?;
    let sides = match args.side {
        Side::Server => Sides::Server,
        Side::Client => Sides::Client,
        Side::Both => Sides::Both,
    };
    Ok(TapRequest {
        id: secret().await?,
        namespace: namespace.to_owned(),
        workload: workload.map(str::to_owned),
        filter: TapFilter {
            sides: Some(sides),
            from: args.from.clone(),
            method: args.method.clone(),
            path_prefix: args.path.clone(),
            status: args.status.clone(),
            min_duration_ms: args.min_duration,
        },
        headers: args.headers.clone(),
        query: args.query,
        per_second: args.rate,
        seconds: args.timeout,
        end: false,
    })
}

/// The namespace and the workload of a target.
fn target(text: &str) -> Result<(&str, Option<&str>)> {
    let (namespace, workload) = match text.split_once('/') {
        Some((namespace, workload)) => (namespace, Some(name_of(workload)?)),
        None => (text, None),
    };
    if namespace.is_empty()
        || workload == Some("")
        || workload.is_some() && name_of(&format!("{namespace}/x")).is_ok()
    {
        bail!(
            "\"{text}\" is not a target; use NAMESPACE, NAMESPACE/WORKLOAD or NAMESPACE/deploy/NAME"
        );
    }
    Ok((namespace, workload))
}

/// The tap at all replicas.
struct Taps {
    source: Source,
    request: TapRequest,
    until: Instant,
    news: mpsc::Sender<(String, News)>,
    over: CancellationToken,
    /// Those that are asked, each with the end of its task.
    followed: BTreeMap<String, CancellationToken>,
    tasks: JoinSet<()>,
}

impl Taps {
    /// Follows the replicas that are new, and forgets those that are gone.
    async fn look(&mut self, seen: &mut Seen<'_>) -> Result<()> {
        let running = self.replicas().await?;
        for gone in self.set(running) {
            seen.forget(&gone);
        }
        seen.are_back(|name| self.followed.contains_key(name));
        Ok(())
    }

    /// Follows these replicas and no others. Returns the names of those that were followed before.
    fn set(&mut self, running: Vec<Replica>) -> Vec<String> {
        let names: BTreeSet<String> = running.iter().map(Replica::name).collect();
        let gone = self.followed.keys().filter(|name| !names.contains(*name));
        let gone: Vec<String> = gone.cloned().collect();
        for name in &gone {
            if let Some(end) = self.followed.remove(name) {
                end.cancel();
            }
        }
        for replica in running {
            if self.followed.contains_key(&replica.name()) {
                continue;
            }
            let over = self.over.child_token();
            self.followed.insert(replica.name(), over.clone());
            let (news, request) = (self.news.clone(), self.request.clone());
            self.tasks
                .spawn_local(follow(replica, request, self.until, news, over));
        }
        gone
    }

    async fn replicas(&self) -> Result<Vec<Replica>> {
        match &self.source {
            Source::Standalone(folder) => Ok(vec![Replica::Local(socket(folder))]),
            Source::Cluster(cluster) => {
                let running = running(cluster).await?;
                let pods = running.into_iter();
                Ok(pods
                    .map(|name| Replica::Pod(cluster.clone(), name))
                    .collect())
            }
        }
    }
}

fn socket(folder: &std::path::Path) -> PathBuf {
    folder.join(SOCKET)
}

async fn running(cluster: &ClusterArgs) -> Result<Vec<String>> {
    let running = Way::of(cluster, TAPPER).await?.running().await?;
    if running.is_empty() {
        bail!("no replica of the control plane is running; run heddle check");
    }
    Ok(running.into_iter().map(|(name, _)| name).collect())
}

/// Its output for a test of all printers.
#[cfg(test)]
pub fn printed(of: &crate::hostile::Hostile) -> String {
    text::printed(of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_namespace_and_perhaps_a_workload() {
        for (text, expected) in [
            ("shop", Some(("shop", None))),
            ("shop/reviews", Some(("shop", Some("reviews")))),
            ("shop/deploy/reviews", Some(("shop", Some("reviews")))),
            ("shop/pod/reviews", None),
            ("deploy/reviews", None),
            ("/reviews", None),
            ("shop/", None),
            ("", None),
        ] {
            assert_eq!(target(text).ok(), expected, "{text}");
        }
    }

    pub fn args() -> TapArgs {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            tap: TapArgs,
        }
        let line = <Line as clap::Parser>::parse_from(["tap", "shop"]);
        line.tap
    }

    /// Replicas at sockets without a server: they are asked again and again.
    #[tokio::test]
    async fn gone_replicas_are_asked_no_more_and_new_ones_are() {
        let follows = async {
            let (news, mut incoming) = mpsc::channel(QUEUE);
            let mut taps = Taps {
                source: Source::Standalone(PathBuf::new()),
                request: request(&args()).await.unwrap(),
                until: Instant::now() + Duration::from_secs(60),
                news,
                over: CancellationToken::new(),
                followed: BTreeMap::new(),
                tasks: JoinSet::new(),
            };
            let replicas = |names: &[&str]| -> Vec<Replica> {
                names
                    .iter()
                    .map(|name| Replica::Local(name.into()))
                    .collect()
            };
            let first = "/nonexistent/first.sock";
            let second = "/nonexistent/second.sock";
            assert!(taps.set(replicas(&[first])).is_empty());
            let (name, news) = incoming.recv().await.unwrap();
            assert!(name == first && matches!(news, News::Away(_)), "{news:?}");
            assert!(taps.set(replicas(&[first])).is_empty());
            assert_eq!(taps.tasks.len(), 1, "it is followed already");

            assert_eq!(taps.set(replicas(&[second])), [first]);
            // The task of the first one ends, and only that.
            taps.tasks.join_next().await.unwrap().unwrap();
            assert_eq!(taps.tasks.len(), 1);
            while let Ok((name, _)) = incoming.try_recv() {
                assert!(name == first || name == second);
            }
            for _ in 0..2 {
                let (name, _) = incoming.recv().await.unwrap();
                assert_eq!(name, second);
            }
            taps.over.cancel();
            while taps.tasks.join_next().await.is_some() {}
        };
        LocalSet::new().run_until(follows).await;
    }
}
