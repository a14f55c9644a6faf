//! `heddle tap`: live requests of a namespace or a workload.

mod follow;
mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use heddle_acceptor::clean;
use heddle_xds_types::tap::{
    MAX_PER_SECOND, MAX_SECONDS, Sides, TapAnswer, TapFilter, TapLine, TapRequest,
};
use tokio::sync::mpsc;
use tokio::task::{JoinSet, LocalSet};
use tokio_util::sync::CancellationToken;

use crate::cluster::ClusterArgs;
use crate::dashboard::secret;
use crate::edges::live::{PlaceArgs, Source};
use crate::findings::plural;
use crate::out::{Format, say};
use crate::replicas::Way;
use crate::rollout::name_of;
use follow::{MARGIN, News, Replica, TAPPER, follow};

/// The socket in the runtime folder of a standalone control plane.
const SOCKET: &str = "tap.sock";
/// The time between two looks for new replicas.
const LOOK: Duration = Duration::from_secs(10);
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
        followed: BTreeSet::new(),
        tasks: JoinSet::new(),
    };
    taps.look().await?;
    let mut seen = Seen::new(args);
    let mut looks = tokio::time::interval(LOOK);
    let result = loop {
        tokio::select! {
            Some((replica, news)) = incoming.recv() => match seen.take(replica, news) {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            },
            _ = looks.tick() => if let Err(error) = taps.look().await {
                eprintln!("heddle: {}", clean(&format!("{error:#}"), MAX_REASON));
            },
            () = tokio::time::sleep_until(until.into()) => break Ok(()),
            _ = tokio::signal::ctrl_c() => break Ok(()),
        }
    };
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
    followed: BTreeSet<String>,
    tasks: JoinSet<()>,
}

impl Taps {
    /// Follows the replicas that are new.
    async fn look(&mut self) -> Result<()> {
        for replica in self.replicas().await? {
            if self.followed.insert(replica.name()) {
                let (news, over) = (self.news.clone(), self.over.clone());
                let request = self.request.clone();
                self.tasks
                    .spawn_local(follow(replica, request, self.until, news, over));
            }
        }
        Ok(())
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
        bail!("no replica of the control plane is running (fix: heddle check)");
    }
    Ok(running.into_iter().map(|(name, _)| name).collect())
}

/// The state of a replica.
#[derive(Debug, Default)]
struct Told {
    /// The last answer, without its rows.
    answer: Option<TapAnswer>,
    /// Why it could not be asked, the last time.
    away: Option<String>,
}

/// All that was printed and heard.
struct Seen<'a> {
    args: &'a TapArgs,
    replicas: BTreeMap<String, Told>,
    shown: u64,
    announced: bool,
    too_old: usize,
}

impl<'a> Seen<'a> {
    const fn new(args: &'a TapArgs) -> Self {
        Self {
            args,
            replicas: BTreeMap::new(),
            shown: 0,
            announced: false,
            too_old: 0,
        }
    }

    /// Takes the news of a replica. Returns whether the tap goes on.
    fn take(&mut self, replica: String, news: News) -> Result<bool> {
        let told = self.replicas.entry(replica.clone()).or_default();
        match news {
            News::Refused(reason) => bail!("{replica}: {}", clean(&reason, MAX_REASON)),
            News::Away(reason) => {
                let reason = clean(&reason, MAX_REASON);
                if told.away.as_ref() != Some(&reason) {
                    eprintln!("heddle: {replica} could not be asked: {reason}");
                }
                told.away = Some(reason);
            }
            News::Answer(mut answer) => {
                told.away = None;
                let rows = std::mem::take(&mut answer.rows);
                told.answer = Some(answer);
                self.announce();
                return self.print(rows);
            }
        }
        Ok(true)
    }

    fn print(&mut self, rows: Vec<TapLine>) -> Result<bool> {
        for row in rows {
            match self.args.output {
                Format::Text => say!("{}", text::line(&row)),
                format @ (Format::Json | Format::Yaml) => format.print_next(&row, String::new)?,
            }
            self.shown += 1;
            if self.args.max.is_some_and(|max| self.shown >= max) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Says once how many sidecars are tapped, and names those that cannot be.
    fn announce(&mut self) {
        if !self.announced {
            self.announced = true;
            eprintln!(
                "tapping {} for {} s; Ctrl-C ends it",
                self.args.target, self.args.timeout
            );
            if self.args.output == Format::Text {
                say!("{}", text::head());
            }
        }
        let old = self.sum(|answer| answer.too_old_count);
        if old > self.too_old {
            self.too_old = old;
            let answers = self.answers().flat_map(|answer| &answer.too_old);
            let names: Vec<&str> = answers.map(String::as_str).collect();
            let names = clean(&names.join(", "), MAX_REASON);
            eprintln!(
                "heddle: {} cannot be tapped, for the bootstrap is older than version {}: {names} (fix: restart them)",
                plural(old, "sidecar"),
                heddle_xds_types::tap::BOOTSTRAP
            );
        }
    }

    fn answers(&self) -> impl Iterator<Item = &TapAnswer> {
        self.replicas
            .values()
            .filter_map(|told| told.answer.as_ref())
    }

    fn sum<T: std::iter::Sum>(&self, of: impl Fn(&TapAnswer) -> T) -> T {
        self.answers().map(of).sum()
    }

    /// Prints the counts, and fails if the tap was not whole.
    fn verdict(&self) -> Result<()> {
        let away: Vec<String> = self
            .replicas
            .iter()
            .filter_map(|(name, told)| Some(format!("{name}: {}", told.away.as_ref()?)))
            .collect();
        if self.answers().next().is_none() {
            bail!(
                "no replica of the control plane served the tap\n  {}",
                away.join("\n  ")
            );
        }
        eprintln!("{}", self.summary());
        if away.is_empty() {
            return Ok(());
        }
        bail!(
            "this is partial: some replicas could not be asked\n  {}",
            away.join("\n  ")
        )
    }

    fn summary(&self) -> String {
        let mut text = format!(
            "{} from {}",
            plural(usize::try_from(self.shown).unwrap_or(usize::MAX), "request"),
            plural(self.sum(|answer| answer.sidecars), "sidecar")
        );
        let left_out: u64 = self.sum(|answer| answer.left_out);
        if left_out > 0 {
            let rate = self.args.rate;
            text.push_str(&format!("; {left_out} matched and were left out, for a sidecar reports {rate} a second (--rate)"));
        }
        let lost: u64 = self.sum(|answer| answer.lost);
        if lost > 0 {
            text.push_str(&format!("; {lost} were lost on the way"));
        }
        text
    }
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
}
