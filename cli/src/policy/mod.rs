//! `heddle policy`: policies tested, and written from observed traffic.

mod assertions;
mod evidence;
mod mesh;
mod names;
mod never;
mod paths;
mod requests;
mod rules;
mod suggest;
mod test;

use anyhow::Result;
use clap::Subcommand;

/// The commands on policies.
#[derive(Subcommand, Debug)]
pub enum PolicyCommand {
    /// Hold assertions about calls against the policies.
    #[command(
        long_about = "Reads assertions and holds them against the objects of the cluster (or of --dir), by the control plane's own evaluator. \
                      `allow` and `deny` are about one call, as `heddle why` judges it. `never` is about every request of every caller that \
                      it means, judged at the servers: with every method, path, header and address. An assertion that does not hold comes \
                      with a request that shows it, and with the policy and rule that decided. Sends nothing.\n\n\
                      Exit codes: 0 all assertions hold, 1 an error, 2 one does not hold or is not decided.",
        after_long_help = "Examples:\n  heddle policy test -f tests.yaml\n  heddle policy test -d manifests/ -f tests.yaml -o junit\n\n\
                           A file:\n  tests:\n  - allow: {from: shop/frontend, to: shop/reviews, path: /reviews/1}\n  \
                           - deny: {from: shop/batch, to: shop/reviews, method: DELETE}\n  \
                           - name: only the shop reaches the database\n    never: {from: {except: {namespaces: [shop]}}, to: {services: [shop/db]}}"
    )]
    Test(test::TestArgs),
    /// Write policies that allow the observed callers.
    #[command(
        long_about = "Writes an AuthPolicy for each workload of a namespace, with the identities and ports that sidecars have observed in the \
                      last quarter of an hour, as a file to review: comments name how often each caller called. Only calls count that the \
                      server's sidecar has seen with the caller's certificate; callers in plain text, callers that were denied and mere claims \
                      are named in comments and left out. With requests of `heddle tap`, the rules name their methods and paths, too: numbers, ids \
                      and other values in a path become a prefix. Applies nothing.\n\n\
                      Takes the rights of `heddle edges` and `heddle analyze`.",
        after_long_help = "Examples:\n  heddle policy suggest shop --audit > policies.yaml\n  \
                           heddle plan -f policies.yaml\n  \
                           heddle tap shop --timeout 600 -o json > requests.json\n  \
                           heddle policy suggest shop --requests requests.json --audit\n  \
                           heddle policy suggest shop -d manifests/ --edges edges.json"
    )]
    Suggest(suggest::SuggestArgs),
}

/// Runs the command; returns whether something is not as it should be.
///
/// # Errors
/// Files, objects or flows cannot be read, an assertion is not one or names things that do not exist, or the namespace has no pods.
pub async fn run(command: &PolicyCommand) -> Result<bool> {
    match command {
        PolicyCommand::Test(args) => test::run(args).await,
        PolicyCommand::Suggest(args) => suggest::run(args).await.map(|()| false),
    }
}

/// Its output for a test of all printers.
#[cfg(test)]
pub fn printed(of: &crate::hostile::Hostile) -> String {
    format!("{}\n{}", test::printed(of), suggest::printed(of))
}
