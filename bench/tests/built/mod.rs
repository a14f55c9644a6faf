//! The built programs that these tests run.

use std::path::{Path, PathBuf};

use heddle_bench::paths::ClusterParts;

/// Returns the API server's programs, and the control plane's beside this test.
pub fn built() -> (ClusterParts, PathBuf) {
    let repo = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let parts = ClusterParts::find(repo).unwrap();
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().and_then(Path::parent).unwrap();
    let operator = profile.join("heddle-operator");
    assert!(operator.is_file(), "{}: `make build`", operator.display());
    (parts, operator)
}
