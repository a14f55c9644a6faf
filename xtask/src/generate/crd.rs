//! `config/crd/`: one definition per kind.

use anyhow::Result;
use heddle_crds::Kind;

use super::{
    Files,
    yaml::{HEADER, to_yaml},
};

/// Renders the definitions and their kustomization.
///
/// # Errors
/// A definition cannot be written as YAML.
pub fn files() -> Result<Files> {
    let mut files = Files::new();
    let mut list = format!(
        "{HEADER}apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n"
    );
    for kind in Kind::ALL {
        let crd = kind.crd();
        let name = format!("{}_{}.yaml", crd.spec.group, crd.spec.names.plural);
        list.push_str(&format!("- {name}\n"));
        files.insert(
            format!("config/crd/{name}"),
            format!("{HEADER}{}", to_yaml(&crd)?),
        );
    }
    files.insert("config/crd/kustomization.yaml".to_owned(), list);
    Ok(files)
}
