//! Definitions of an older version: the API server drops the fields that they lack.

use anyhow::{Context, Result, ensure};
use heddle_e2e::{Kubectl, eventually};
use serde_json::Value;

use super::{PATIENCE, run_heddle};

const DEFINITION: &str = "crd/trafficpolicies.heddle.dev";
/// The field that the definition loses.
const TARGET: &str = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/target";

pub fn a_definition_without_a_field_is_told() -> Result<()> {
    let mut definition = Kubectl::cluster().get(DEFINITION)?;
    // So that it can be written over a later one.
    let metadata = definition.pointer_mut("/metadata");
    let metadata = metadata.and_then(Value::as_object_mut);
    let version = metadata.context("no metadata")?.remove("resourceVersion");
    ensure!(version.is_some(), "{definition}");
    let mut older = definition.clone();
    let fields = older.pointer_mut(&format!("{TARGET}/properties"));
    let fields = fields.and_then(Value::as_object_mut).context("no target")?;
    ensure!(fields.remove("namespace").is_some(), "no field");
    // Rules about the field are as old as it is.
    let target = older.pointer_mut(TARGET).and_then(Value::as_object_mut);
    target
        .context("no target")?
        .remove("x-kubernetes-validations");

    Kubectl::cluster().replace(&older.to_string())?;
    let told = eventually("heddle check names the field", PATIENCE, || {
        let check = run_heddle(&["check"])?;
        let text = String::from_utf8_lossy(&check.stdout).into_owned();
        let told = text.contains("drops spec.target.namespace from every TrafficPolicy");
        Ok((told && !check.status.success()).then_some(()))
    });
    Kubectl::cluster().replace(&definition.to_string())?;
    told?;
    eventually("heddle check is content again", PATIENCE, || {
        Ok(run_heddle(&["check"])?.status.success().then_some(()))
    })
}
