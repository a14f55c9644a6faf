//! `heddle ca`: a copy of the mesh's root, its restoration, and the reset to a new one.

mod reset;

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use heddle_identity::{Ca, RootPem, fingerprint_of};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::json;

use crate::cluster::{self, ClusterArgs, NAMESPACE, WEBHOOK};
use crate::out::tell;
use crate::stop;

/// The Secret that holds the root and its key.
pub const SECRET: &str = "heddle-ca";
/// The ConfigMap that remembers the root's fingerprint.
pub const MEMORY: &str = "heddle-root";
const LARGEST_BACKUP: u64 = 1 << 20;

/// Commands about the root certificate of the mesh.
#[derive(Subcommand, Debug)]
pub enum CaCommand {
    /// Write the root and its private key into a file that only you can read.
    #[command(
        long_about = "Writes the Secret heddle-system/heddle-ca, which holds the root certificate of the mesh and its private key, into a \
                      new file that only you can read. Keep it where you keep other keys: who has it can be any workload of the mesh."
    )]
    Backup(FileArgs),
    /// Put the root of a backup back where it was lost.
    #[command(
        long_about = "Creates the Secret heddle-system/heddle-ca from a file of `heddle ca backup`. Refuses a root that is not the one that \
                      the mesh remembers, and never replaces another one. The operator goes on by itself."
    )]
    Restore(FileArgs),
    /// Give up the root: a new one is made, and every pod of the mesh must be restarted.
    #[command(
        long_about = "Stops the operator, deletes the root and the memory of it, and starts the operator, which makes a new root. Running \
                      sidecars do not trust the new root: every pod of the mesh must be restarted afterwards, and calls between old and new \
                      pods fail until then. Ctrl-C while the operator ends starts it again with the old root. Where the connection is lost, \
                      an annotation of the Deployment keeps the replicas, and a repetition of the command restores them."
    )]
    Reset(ResetArgs),
}

/// A file, and the cluster.
#[derive(Args, Debug)]
pub struct FileArgs {
    /// The file.
    file: PathBuf,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Options of `heddle ca reset`.
#[derive(Args, Debug)]
pub struct ResetArgs {
    /// Confirms that the root is to be given up.
    #[arg(long, required = true)]
    yes: bool,
    /// The longest wait for the operator's replicas to end, in seconds.
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    timeout: u64,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Runs the command.
///
/// # Errors
/// The file cannot be read or written, the root is missing or unusable, the mesh uses another one, or the API server does not answer.
pub async fn run(command: &CaCommand) -> Result<()> {
    match command {
        CaCommand::Backup(args) => backup(&args.cluster.client().await?, &args.file).await,
        CaCommand::Restore(args) => {
            let (secret, ca) = read(&args.file)?;
            restore(&args.cluster.client().await?, secret, &ca).await
        }
        CaCommand::Reset(args) => {
            let (client, stopped) = (args.cluster.client().await?, stop::stopped()?);
            reset::reset(&client, Duration::from_secs(args.timeout), stopped).await
        }
    }
}

fn secrets(client: &Client) -> Api<Secret> {
    Api::namespaced(client.clone(), NAMESPACE)
}

async fn backup(client: &Client, file: &Path) -> Result<()> {
    let secret = cluster::find("get the root", secrets(client).get(SECRET)).await?;
    let Some(secret) = secret else {
        bail!("Secret {NAMESPACE}/{SECRET} is not there, so there is no root to back up");
    };
    let ca = authority(&secret)?;
    let manifest = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET, "namespace": NAMESPACE},
        "data": serde_json::to_value(&secret.data)?,
    });
    let mut written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .with_context(|| format!("cannot create {}", file.display()))?;
    written.write_all(serde_saphyr::to_string(&manifest)?.as_bytes())?;
    written.sync_all()?;
    tell!(
        "wrote the root (SHA-256 {}) and its private key to {}",
        ca.fingerprint(),
        file.display()
    );
    Ok(())
}

/// Reads a backup.
fn read(file: &Path) -> Result<(Secret, Ca)> {
    let about = || format!("cannot read {}", file.display());
    let mut text = String::new();
    let opened = std::fs::File::open(file).with_context(about)?;
    opened
        .take(LARGEST_BACKUP)
        .read_to_string(&mut text)
        .with_context(about)?;
    let secret: Secret = serde_saphyr::from_str(&text)
        .with_context(|| format!("{} is not a file of `heddle ca backup`", file.display()))?;
    if secret.metadata.name.as_deref() != Some(SECRET) {
        bail!(
            "{} is not a backup of the root: it does not hold Secret {SECRET}; name a file of `heddle ca backup`",
            file.display()
        );
    }
    let ca = authority(&secret).with_context(|| format!("{} cannot be used", file.display()))?;
    Ok((secret, ca))
}

/// The CA that a Secret holds. Errors never contain key material.
///
/// # Errors
/// The Secret has no certificate or key, or they are not text, not a CA that is valid now, or do not belong together.
pub fn authority(secret: &Secret) -> Result<Ca> {
    let text = |key: &str| {
        let bytes = secret.data.as_ref().and_then(|data| data.get(key));
        let fix = "take Secret heddle-ca from an intact file of `heddle ca backup`";
        let bytes = bytes.with_context(|| format!("the Secret has no `{key}`; {fix}"))?;
        String::from_utf8(bytes.0.clone())
            .map_err(|_| anyhow::anyhow!("`{key}` of the Secret is not text; {fix}"))
    };
    let root = RootPem {
        certificates: text("ca.crt")?,
        private_key: text("ca.key")?,
    };
    Ok(Ca::load(&root, SystemTime::now())?)
}

/// The fingerprint that the mesh remembers, if any: in the ConfigMap, or where that is gone too in the CA bundle of the webhook. The operator
/// decides by the same two.
///
/// # Errors
/// The API server does not answer, or refuses the ConfigMap or the webhook.
pub async fn remembered(client: &Client) -> Result<Option<String>> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
    let memory = cluster::find("get the memory of the root", api.get(MEMORY)).await?;
    let data = memory.and_then(|memory| memory.data);
    if let Some(fingerprint) = data.and_then(|mut data| data.remove("fingerprint")) {
        return Ok(Some(fingerprint));
    }
    let webhooks: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let webhook = cluster::find("get the webhook", webhooks.get(WEBHOOK)).await?;
    let webhooks = webhook.and_then(|webhook| webhook.webhooks);
    let mut bundles = webhooks
        .iter()
        .flatten()
        .filter_map(|webhook| webhook.client_config.ca_bundle.as_ref());
    Ok(bundles.find_map(|bundle| fingerprint_of(&bundle.0)))
}

async fn restore(client: &Client, secret: Secret, ca: &Ca) -> Result<()> {
    if let Some(known) = remembered(client).await?
        && known != ca.fingerprint()
    {
        bail!(
            "the backup holds the root with SHA-256 {}, but this mesh uses {known}; find its backup, or give it up by `heddle ca reset`",
            ca.fingerprint()
        );
    }
    let api = secrets(client);
    if let Some(present) = cluster::find("get the root", api.get(SECRET)).await? {
        let same =
            authority(&present).is_ok_and(|present| present.fingerprint() == ca.fingerprint());
        if !same {
            bail!(
                "Secret {NAMESPACE}/{SECRET} is there and holds another root; if it is the wrong one, delete it and restore again"
            );
        }
        tell!("the root (SHA-256 {}) is already there", ca.fingerprint());
        return Ok(());
    }
    let mut fresh = Secret {
        data: secret.data,
        ..Secret::default()
    };
    fresh.metadata.name = Some(SECRET.to_owned());
    cluster::call(
        "create the root",
        api.create(&PostParams::default(), &fresh),
    )
    .await?;
    tell!("restored the root (SHA-256 {})", ca.fingerprint());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Server;

    #[test]
    fn a_backup_is_read_back_and_any_other_file_is_refused() {
        let (ca, root) = Ca::create(&"cluster.local".parse().unwrap(), SystemTime::now()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("root.yaml");
        let secret = |name: &str, certificates: &str| {
            format!(
                "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\nstringData: {{}}\ndata:\n  ca.crt: {}\n  ca.key: {}\n",
                base64(certificates),
                base64(&root.private_key)
            )
        };
        std::fs::write(&file, secret(SECRET, &root.certificates)).unwrap();
        assert_eq!(read(&file).unwrap().1.fingerprint(), ca.fingerprint());
        let (_, other) = Ca::create(&"cluster.local".parse().unwrap(), SystemTime::now()).unwrap();
        for text in [
            secret("other", &root.certificates),
            secret(SECRET, &other.certificates),
            secret(SECRET, "none"),
            "kind: ConfigMap".to_owned(),
            "[".to_owned(),
        ] {
            std::fs::write(&file, &text).unwrap();
            let error = format!("{:#}", read(&file).unwrap_err());
            assert!(!error.contains("PRIVATE"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_foreign_root_is_refused_where_only_the_webhook_remembers_its_own() {
        let domain = "cluster.local".parse().unwrap();
        let (ca, root) = Ca::create(&domain, SystemTime::now()).unwrap();
        let (foreign, other) = Ca::create(&domain, SystemTime::now()).unwrap();
        let of = |root: &RootPem| -> Secret {
            let data =
                json!({"ca.crt": base64(&root.certificates), "ca.key": base64(&root.private_key)});
            serde_json::from_value(json!({"data": data})).unwrap()
        };
        let bundle = json!({"caBundle": base64(ca.trust_bundle())});
        let webhook = json!({
            "metadata": {"name": WEBHOOK},
            "webhooks": [{"name": "bare.heddle.dev", "clientConfig": {}}, {"name": "inject.heddle.dev", "clientConfig": bundle}],
        });
        let path = format!(
            "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{WEBHOOK}"
        );
        let server = Server::with([(&path, webhook)]);
        let client = server.client();
        let known = remembered(&client).await.unwrap();
        assert_eq!(known.as_deref(), Some(ca.fingerprint()));
        let refused = restore(&client, of(&other), &foreign).await.unwrap_err();
        let refused = refused.to_string();
        assert!(refused.contains("but this mesh uses"), "{refused}");
        assert_eq!(server.paths(), std::slice::from_ref(&path));
        restore(&client, of(&root), &ca).await.unwrap();
        let secret = format!("/api/v1/namespaces/{NAMESPACE}/secrets/{SECRET}");
        assert_eq!(server.paths(), [secret, path]);

        // Nothing remembers a root.
        let server = Server::default();
        assert_eq!(remembered(&server.client()).await.unwrap(), None);
        restore(&server.client(), of(&other), &foreign)
            .await
            .unwrap();
    }

    fn base64(text: &str) -> String {
        let bytes = k8s_openapi::ByteString(text.as_bytes().to_vec());
        serde_json::to_value(bytes)
            .unwrap()
            .as_str()
            .unwrap()
            .to_owned()
    }
}
