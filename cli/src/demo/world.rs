//! The demo's folder of YAML: the control plane's only input, which a user of `--keep` edits.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use super::apps::Net;

/// The objects that are there from the start.
const WORLD: [(&str, &str); 4] = [
    ("mesh.yaml", include_str!("../../demo/world/mesh.yaml")),
    (
        "clients.yaml",
        include_str!("../../demo/world/clients.yaml"),
    ),
    (
        "reviews.yaml",
        include_str!("../../demo/world/reviews.yaml"),
    ),
    (
        "ratings.yaml",
        include_str!("../../demo/world/ratings.yaml"),
    ),
];

/// The objects that a step applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// 95 to 5.
    SplitMostlyV1,
    /// 50 to 50.
    SplitEven,
    /// Mutual TLS only.
    Strict,
    /// Only `reviews` may call `ratings`.
    RatingsCallers,
    /// A split towards a service that does not exist.
    FaultySplit,
    /// A policy that Envoy rejects.
    RejectedPolicy,
}

impl Change {
    /// The file of the world that it writes, and the text.
    const fn file(self) -> (&'static str, &'static str) {
        match self {
            Self::SplitMostlyV1 => (
                "split.yaml",
                include_str!("../../demo/steps/split-95-5.yaml"),
            ),
            Self::SplitEven => (
                "split.yaml",
                include_str!("../../demo/steps/split-50-50.yaml"),
            ),
            Self::Strict => ("strict.yaml", include_str!("../../demo/steps/strict.yaml")),
            Self::RatingsCallers => (
                "ratings-callers.yaml",
                include_str!("../../demo/steps/ratings-callers.yaml"),
            ),
            Self::FaultySplit => (
                "faulty-split.yaml",
                include_str!("../../demo/steps/faulty-split.yaml"),
            ),
            Self::RejectedPolicy => (
                "ratings-callers.yaml",
                include_str!("../../demo/steps/rejected-policy.yaml"),
            ),
        }
    }
}

/// The work directory.
pub struct WorkDir {
    root: PathBuf,
    net: Net,
}

impl WorkDir {
    /// Makes the folders and writes the first world.
    ///
    /// # Errors
    /// The folder has a world of an earlier demo, or cannot be written.
    pub fn create(root: PathBuf, net: Net) -> Result<Self> {
        let dir = Self { root, net };
        if dir.world().exists() {
            bail!(
                "{} has a world of an earlier demo; delete it, or give another --dir",
                dir.root.display()
            );
        }
        for folder in [dir.world(), dir.runtime(), dir.logs()] {
            fs::create_dir_all(&folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
        }
        for (name, text) in WORLD {
            dir.write(name, text)?;
        }
        Ok(dir)
    }

    /// The folder that the control plane watches.
    pub fn world(&self) -> PathBuf {
        self.root.join("world")
    }

    /// Where the control plane writes status, tokens and the trust bundle.
    pub fn runtime(&self) -> PathBuf {
        self.root.join("run")
    }

    /// One file per process.
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// Where one sidecar has its sockets; short, for a socket's path has to fit into 108 bytes.
    pub fn sidecar(&self, pod: &str) -> PathBuf {
        self.root.join(pod)
    }

    /// Applies a change; gives the file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn apply(&self, change: Change) -> Result<PathBuf> {
        let (name, text) = change.file();
        self.write(name, text)
    }

    /// Takes a change away again.
    ///
    /// # Errors
    /// The file is not there, or cannot be deleted.
    pub fn remove(&self, change: Change) -> Result<()> {
        let path = self.world().join(change.file().0);
        fs::remove_file(&path).with_context(|| format!("cannot delete {}", path.display()))
    }

    /// Written beside the world and moved in, so that no reader sees half a file.
    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let (draft, path) = (self.root.join(name), self.world().join(name));
        let text = text.replace("${NET}", self.net.prefix());
        fs::write(&draft, text).with_context(|| format!("cannot write {}", draft.display()))?;
        fs::rename(&draft, &path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use heddle_policy_compiler::{World, compile, ingest};

    #[test]
    fn the_world_and_every_step_can_be_read() {
        let steps = [
            Change::SplitMostlyV1,
            Change::SplitEven,
            Change::Strict,
            Change::RatingsCallers,
            Change::FaultySplit,
            Change::RejectedPolicy,
        ];
        let texts = WORLD.into_iter().chain(steps.into_iter().map(Change::file));
        let mut builder = World::builder();
        for (name, text) in texts {
            let read = ingest::parse_yaml(name, &text.replace("${NET}", "127.77.7"));
            assert!(!read.objects.is_empty(), "{name} holds nothing");
            let mut findings = read.findings;
            for manifest in read.objects {
                findings.extend(builder.apply(manifest.object));
            }
            assert!(findings.is_empty(), "{findings:?}");
        }
        assert_eq!(compile(&builder.world()).proxies.len(), 5);
    }
}
