//! `heddle-bench simulate`: the load program alone, against any ADS server.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::change::Change;
use crate::mesh::this_hour;
use crate::probe::{Probe, milliseconds};
use crate::sim::proxy::Proxy;
use crate::sim::{Credentials, Fleet, Member, Retry, Server};
use crate::stats::Sample;

/// Simulated proxies against an ADS server. `{i}` in a template is the proxy's number, `{hour}` in a name the UTC hour.
#[derive(Debug, Args)]
pub struct Simulate {
    /// The server, `host:port`.
    #[arg(long)]
    ads_address: String,
    /// The name its certificate bears; default: the host of its address.
    #[arg(long)]
    server_name: Option<String>,
    /// How many proxies.
    #[arg(long, default_value_t = 1)]
    proxies: usize,
    /// Template of the node ids.
    #[arg(long, default_value = "bench/proxy-{i}")]
    node: String,
    /// Template of the nodes' cluster.
    #[arg(long, default_value = "bench")]
    node_cluster: String,
    /// PEM file of trusted roots; without it plain text.
    #[arg(long, requires_all = ["cert", "key"])]
    ca: Option<PathBuf>,
    /// Template of the PEM files of certificate chains.
    #[arg(long, requires = "ca")]
    cert: Option<String>,
    /// Template of the PEM files of private keys.
    #[arg(long, requires = "ca")]
    key: Option<String>,
    /// A cluster asked for on demand, besides the wildcard; may be repeated.
    #[arg(long = "name")]
    names: Vec<String>,
    /// A file of such names, one a line.
    #[arg(long)]
    names_file: Option<PathBuf>,
    /// Seconds to stay connected after synchronization, and to wait for a change.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Come back when a stream breaks, as Envoy does, with the held resources; else that is a failure.
    #[arg(long)]
    reconnect: bool,
    /// A shell command that makes a change; the clock starts when it has ended.
    #[arg(long, requires = "expect")]
    apply: Option<String>,
    /// The expected content of the change: `endpoints:<part of the name>:<healthy>`, `weights:<part of the name>:<a>/<b>` or `text:<text>`.
    #[arg(long, requires = "apply")]
    expect: Option<Change>,
}

impl Simulate {
    /// Runs, and prints the results.
    ///
    /// # Errors
    /// When a proxy fails.
    pub async fn run(self) -> Result<()> {
        let within = Duration::from_secs(self.seconds);
        let names = self.all_names()?;
        let members = (0..self.proxies)
            .map(|index| self.member(index, &names))
            .collect::<Result<Vec<_>>>()?;
        let host = self
            .ads_address
            .rsplit_once(':')
            .map_or(self.ads_address.as_str(), |(host, _)| host);
        let server_name = self.server_name.clone().unwrap_or_else(|| host.to_owned());
        let mut fleet = Fleet::start(
            &Server {
                address: self.ads_address.clone(),
                server_name,
            },
            members,
            if self.reconnect {
                Retry::AsEnvoy
            } else {
                Retry::Never
            },
        )?;
        let synced = fleet.synced(within).await?;
        println!(
            "{} proxies synchronized in {:.3} s; each holds {} resources, got {} bytes; {} names refused",
            fleet.size(),
            synced.took().as_secs_f64(),
            synced.resources,
            synced.bytes,
            synced.refused
        );
        let (Some(apply), Some(expect)) = (self.apply, self.expect) else {
            tokio::time::sleep(within).await;
            let total = fleet.observer().total();
            println!(
                "{} responses and {} bytes in all; {} resources of {} bytes came though unchanged; {} streams broke",
                total.responses,
                total.bytes,
                total.unchanged,
                total.unchanged_bytes,
                fleet.broken()
            );
            return fleet.all_up();
        };
        change(&fleet, &apply, expect, within).await
    }

    fn member(&self, index: usize, names: &[String]) -> Result<Member> {
        let fill = |template: &str| template.replace("{i}", &index.to_string());
        let proxy = Proxy::new(
            &fill(&self.node),
            &fill(&self.node_cluster),
            names.iter().cloned(),
        );
        let credentials = match (&self.ca, &self.cert, &self.key) {
            (Some(ca), Some(cert), Some(key)) => Some(Credentials::from_files(
                ca,
                fill(cert).as_ref(),
                fill(key).as_ref(),
            )?),
            _ => None,
        };
        Ok(Member { proxy, credentials })
    }

    fn all_names(&self) -> Result<Vec<String>> {
        let file = match &self.names_file {
            Some(path) => {
                std::fs::read_to_string(path).with_context(|| path.display().to_string())?
            }
            None => String::new(),
        };
        let lines = file.lines().map(str::trim).filter(|line| !line.is_empty());
        Ok(self
            .names
            .iter()
            .map(String::as_str)
            .chain(lines)
            .map(|name| name.replace("{hour}", &this_hour()))
            .collect())
    }
}

async fn change(fleet: &Fleet, apply: &str, expect: Change, within: Duration) -> Result<()> {
    let probe = Probe::arm(fleet, expect, fleet.size());
    let from = Instant::now();
    let status = tokio::process::Command::new("sh")
        .args(["-c", apply])
        .status()
        .await?;
    let end = Instant::now();
    if !status.success() {
        bail!("`{apply}` failed: {status}");
    }
    // Arrivals while the command still ran count as at its end.
    let times = Sample::new(milliseconds(&probe.arrivals(within).await?, end));
    println!(
        "arrival p50 {:.1}, p99 {:.1}, last {:.1} ms after the end of the command, which took {:.1} ms",
        times.median(),
        times.quantile(0.99),
        times.max(),
        (end - from).as_secs_f64() * 1e3
    );
    fleet.all_up()
}
