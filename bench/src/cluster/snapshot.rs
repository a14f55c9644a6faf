//! etcd's data of a filled mesh, kept between runs: writing it is not measured, and takes minutes.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::{Api, ApiServer, Variant, fill};
use crate::mesh::Mesh;
use crate::objects::{self, Ready};
use crate::paths::ClusterParts;

/// A copy of the data for a mesh, in a directory of its own; filled now if no run has filled it before.
///
/// # Errors
/// When it can't be filled or copied.
pub async fn copy(parts: &ClusterParts, mesh: Mesh, work: &Path) -> Result<PathBuf> {
    let kept = parts.snapshots.join(name(mesh));
    if !kept.is_dir() {
        make(parts, mesh, &kept).await?;
    }
    let data = work.join("etcd-data");
    copy_directory(&kept, &data)?;
    Ok(data)
}

async fn make(parts: &ClusterParts, mesh: Mesh, kept: &Path) -> Result<()> {
    std::fs::create_dir_all(&parts.snapshots)?;
    // In the cache's own directory, for it is renamed when it is done.
    let work = tempfile::Builder::new()
        .prefix("filling-")
        .tempdir_in(&parts.snapshots)?;
    let data = work.path().join("etcd-data");
    let from = Instant::now();
    {
        let server = ApiServer::start(parts, &data, work.path(), &Variant::default()).await?;
        let api = Api::connect(&server.kubeconfig).await?;
        fill::fill(&api, mesh).await?;
    }
    eprintln!(
        "fill: {} services in {:.0} s, kept in {}",
        mesh.services(),
        from.elapsed().as_secs_f64(),
        kept.display()
    );
    std::fs::rename(&data, kept).with_context(|| kept.display().to_string())
}

/// Other objects are another snapshot.
fn name(mesh: Mesh) -> String {
    let sample = [
        objects::node(),
        objects::namespace_object(0),
        objects::service_account(0),
        objects::service(0),
        objects::slice(0, Ready::all()),
        objects::pod(0, 0),
        objects::pod_status(0, 0),
    ];
    let mut hash = Sha256::new();
    for object in &sample {
        hash.update(object.to_string());
    }
    let hash = format!("{:x}", hash.finalize());
    let short: String = hash.chars().take(12).collect();
    format!("etcd-{}-{short}", mesh.services())
}

fn copy_directory(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_directory(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_whole_and_named_by_what_is_in_it() {
        let from = tempfile::tempdir().unwrap();
        std::fs::create_dir(from.path().join("a")).unwrap();
        std::fs::write(from.path().join("a/b"), "text").unwrap();
        let to = tempfile::tempdir().unwrap();
        copy_directory(from.path(), &to.path().join("x")).unwrap();
        let text = std::fs::read_to_string(to.path().join("x/a/b")).unwrap();
        assert_eq!(text, "text");
        let name = |services| name(Mesh::new(services).unwrap());
        assert!(name(50).starts_with("etcd-50-") && name(50) != name(60));
    }
}
