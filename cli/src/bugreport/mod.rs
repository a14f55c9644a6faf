//! `heddle bugreport`: the state of the mesh in one archive, with known forms of secrets replaced.

mod archive;
mod collect;
mod redact;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use anyhow::{Context, Result};
use bytes::Bytes;
use clap::Args;
use heddle_xds_types::api::Endpoint;
use time::OffsetDateTime;

use crate::cluster::{self, ClusterArgs};
use crate::findings::plural;
use crate::out::tell;
use crate::proxy;
use crate::replicas::{self, Replica};
use archive::{Archive, Keep};

/// The answers of every replica: its path, and the name of the part.
const OF_REPLICAS: [(&str, &str); 3] = [
    (Endpoint::Metrics.path(), "metrics.txt"),
    (Endpoint::Proxies.path(), "proxies.json"),
    ("/api/v1/edges?window=900", "edges.json"),
];

/// Options of `heddle bugreport`.
#[derive(Args, Debug)]
pub struct BugreportArgs {
    /// The archive to write; it must not exist. Without it `heddle-bugreport-TIME.tar.gz`.
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// The most that the parts have together before they are compressed, in MiB. A part has at most 8.
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1024))]
    max_size: u16,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Runs the command.
///
/// # Errors
/// The kubeconfig is not usable, or the file exists already or cannot be written.
pub async fn run(args: &BugreportArgs) -> Result<()> {
    let client = args.cluster.client().await?;
    let now = OffsetDateTime::now_utc();
    let folder = format!(
        "heddle-bugreport-{:04}{:02}{:02}-{:02}{:02}{:02}",
        now.year(),
        u8::from(now.month()),
        now.day(),
        now.hour(),
        now.minute(),
        now.second()
    );
    let path = args.to.clone();
    let path = path.unwrap_or_else(|| PathBuf::from(format!("{folder}.tar.gz")));
    let file = create(&path)?;
    let bound = usize::from(args.max_size) << 20;
    let time = u64::try_from(now.unix_timestamp()).unwrap_or(0);
    let written = async {
        let mut archive = Archive::new(file, &folder, time, bound);
        archive.text(
            "check.txt",
            Ok(crate::check::report(&client, &args.cluster).await),
            Keep::Head,
        )?;
        collect::control_plane(&client, &mut archive).await?;
        of_replicas(&args.cluster, &mut archive).await?;
        collect::objects(&client, &mut archive).await?;
        let (file, missing) = archive.end()?;
        file.sync_all().context("cannot write the archive")?;
        anyhow::Ok(missing)
    };
    let missing = written.await.inspect_err(|_| {
        // Half an archive cannot be unpacked.
        let _ = std::fs::remove_file(&path);
    })?;
    tell!("{}", path.display());
    if missing > 0 {
        crate::out::note!(
            "heddle: {} could not be read; manifest.json in the archive names the reasons",
            plural(missing, "part")
        );
    }
    Ok(())
}

fn create(path: &PathBuf) -> Result<File> {
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    file.with_context(|| format!("cannot create {}", path.display()))
}

async fn of_replicas(cluster: &ClusterArgs, archive: &mut Archive<File>) -> Result<()> {
    for (path, part) in OF_REPLICAS {
        crate::out::note!("heddle: replicas: {path}");
        let all = replicas::read_all(cluster, path).await;
        answers(part, all, archive)?;
    }
    let source = crate::edges::live::Source::Cluster(cluster.clone());
    let report = proxy::report(&source).await;
    let table = report.map(|report| proxy::table(&report));
    archive.text("sidecars.txt", table, Keep::Head)
}

/// Adds the answers of all replicas.
fn answers<W: std::io::Write>(
    part: &str,
    all: Result<Vec<Replica<Bytes>>>,
    archive: &mut Archive<W>,
) -> Result<()> {
    let all = match all {
        Ok(all) => all,
        Err(error) => {
            archive.lacks(&format!("replicas/*/{part}"), &cluster::explain(&error));
            return Ok(());
        }
    };
    for replica in all {
        let path = format!("replicas/{}/{part}", replica.name);
        let text = replica.answer.map_err(anyhow::Error::msg);
        let text = text.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        archive.text(&path, text, Keep::Head)?;
    }
    Ok(())
}
