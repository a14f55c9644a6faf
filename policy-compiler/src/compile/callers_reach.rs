//! Callers of the namespace of a policy: service accounts that no pod has, and that are probably slips of the pen.

use heddle_crds::reason;

use super::reach::{Reach, is_near};
use super::report::PolicyFeedback;
use crate::finding::Finding;
use crate::kinds::policies::auth_policy::Policy;

/// Shorter names are too often near each other.
const SHORTEST: usize = 3;

impl Reach<'_> {
    /// Reports each identity of the namespace of a policy that no pod has and that almost equals one that pods have. Others may be those of
    /// pods that are not there at the moment.
    pub(super) fn report_callers<'p>(
        &self,
        policies: impl Iterator<Item = &'p Policy>,
        feedback: &mut PolicyFeedback,
    ) {
        // Searched for each identity: a policy names few callers of its own namespace, and a set of all accounts would be made at each change.
        let accounts = || {
            let meshed = self.meshed.iter().map(|(template, _)| *template);
            let templates = meshed.chain(self.without_sidecar.iter().copied());
            templates.map(|template| &*template.service_account)
        };
        let rules = policies.flat_map(|policy| {
            let rules = policy.rules.iter().enumerate();
            rules.map(move |(index, rule)| (&policy.object, index, rule))
        });
        for (object, index, rule) in rules {
            let namespace = &object.namespace;
            let own = rule.from.identities.iter().filter_map(|identity| {
                let (_, path) = identity.as_str().split_once("/ns/")?;
                path.strip_prefix(&**namespace)?.strip_prefix("/sa/")
            });
            for account in own.filter(|account| accounts().all(|known| known != *account)) {
                let slips = accounts().filter(|known| is_slip(known, account));
                let Some(meant) = slips.min() else { continue };
                let field = format!("spec.rules[{index}].from.identities");
                let message =
                    format!("no pod of namespace {namespace} has the service account {account:?}");
                let finding = Finding::warning(object, field, reason::UNKNOWN_CALLER, message);
                let fix = format!("pods have {namespace}/{meant}: is that meant?");
                feedback.findings.push(finding.fix(fix));
            }
        }
    }
}

/// Whether a name is another one by mistake. Versions of a name, such as `api-1` and `api-2`, are names of their own.
fn is_slip(known: &str, account: &str) -> bool {
    let letters = |name: &str| name.replace(|c: char| c.is_ascii_digit(), "");
    known.len().min(account.len()) >= SHORTEST
        && is_near(known, account)
        && letters(known) != letters(account)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_a_name_and_short_names_are_not_slips() {
        for (known, account, slip) in [
            ("web", "wbe", true),
            ("checkout", "chekout", true),
            ("api-v1", "api-v2", false),
            ("api", "api2", false),
            ("a", "b", false),
            ("web", "cart", false),
        ] {
            assert_eq!(is_slip(known, account), slip, "{known} {account}");
        }
    }
}
