//! `heddle policy`: policies tested, and written from observed traffic.

mod assertions;
mod never;
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
}

/// Runs the command; returns whether something is not as it should be.
pub async fn run(command: &PolicyCommand) -> Result<bool> {
    match command {
        PolicyCommand::Test(args) => test::run(args).await,
    }
}
