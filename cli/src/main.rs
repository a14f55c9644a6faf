//! `heddle`, the command line of the mesh. It uses the compiler of the control plane, so it never has a second opinion.

mod analyze;
mod bugreport;
mod ca;
mod check;
mod cluster;
mod compile;
mod cost;
mod dashboard;
mod decisions;
mod demo;
mod describe;
mod edges;
#[cfg(test)]
mod fake;
mod findings;
mod flows;
#[cfg(test)]
mod hostile;
mod install;
mod manifests;
mod mesh;
mod mtls;
mod out;
mod plan;
mod policy;
#[cfg(test)]
mod printers;
mod proxy;
mod replicas;
mod rollout;
mod sources;
mod stop;
mod table;
mod tap;
mod top;
mod uninstall;
mod version;
mod why;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use heddle_acceptor::LogLines;
use tracing_subscriber::EnvFilter;

/// Heddle: a few objects, stock Envoy, and a status that is true.
#[derive(Parser)]
#[command(
    name = "heddle",
    version,
    long_about = "Heddle is a service mesh control plane: it compiles Mesh, TrafficSplit, TrafficPolicy, AuthPolicy and Telemetry objects into Envoy \
                  configuration and serves it to unmodified Envoy sidecars.\n\n\
                  Exit codes: 0 all well, 1 something is wrong (and said), 2 wrong usage.",
    after_long_help = "Examples:\n  \
                       heddle demo                                 see it work, without a cluster\n  \
                       heddle check --pre && heddle install --apply --wait\n  \
                       heddle analyze -f manifests/                before `git push`\n  \
                       heddle analyze                              on the cluster\n  \
                       heddle plan -f change.yaml                  before `kubectl apply`\n  \
                       heddle compile -f manifests/ --proxy shop/reviews\n  \
                       heddle why --from shop/frontend GET http://reviews/"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show the mesh at work on this machine: no cluster, no root.
    #[command(
        long_about = "Starts a control plane on a folder of YAML, a few small services with an agent and a stock Envoy each, and shows with \
                      counted requests: a traffic split that is moved and rolled back under load, mutual TLS, an authorization policy, a \
                      faulty object set aside, and who called whom. Exits with 1 if anything does not come out as expected.\n\n\
                      Everything listens on a block of loopback addresses of its own (127.X.Y.0/24), so two demos can run at once.",
        after_long_help = "Examples:\n  heddle demo\n  heddle demo --keep          leave it running to play with"
    )]
    Demo(demo::DemoArgs),
    /// Compile YAML into Envoy resources, offline.
    #[command(
        long_about = "Runs the control plane's own compiler over files and prints the Envoy resources of every sidecar, or of one. \
                      Findings go to standard error; exits with 1 if one of them is an error.",
        after_long_help = "Examples:\n  heddle compile -f manifests/\n  heddle compile -f world.yaml --proxy shop/reviews -o json\n  \
                           kubectl get mesh,ts,ap,svc,pods,endpointslices -A -o yaml | heddle compile -f -"
    )]
    Compile(compile::CompileArgs),
    /// Find mistakes, in files or on the cluster.
    #[command(
        long_about = "Runs the control plane's own compiler over files or over what the cluster holds, and prints its findings and the \
                      conditions of status that are not as they should be (--all: every condition). Exits with 1 if one of the findings is an error.",
        after_long_help = "Examples:\n  heddle analyze -f manifests/\n  heddle analyze\n  heddle analyze --context staging -o json"
    )]
    Analyze(analyze::AnalyzeArgs),
    /// Show the effects of a change, before it is made.
    #[command(
        long_about = "Compiles the objects of the cluster (or of --dir) without and with a change, by the control plane's own compiler, and \
                      prints the difference: findings and conditions, callers that are denied or allowed at any port of any workload with a \
                      request that shows it, requests that take another way, and the bytes of sidecars. The flows that the mesh has observed \
                      in the last quarter of an hour tell which of it somebody would notice. Sends and changes nothing.\n\n\
                      Exit codes: 0 nothing gets worse, 1 an error, 2 a new error or bad condition, or a flow is denied or cut. Without flows \
                      every caller counts as one.",
        after_long_help = "Examples:\n  heddle plan -f change.yaml\n  heddle plan --delete AuthPolicy/shop/reviews\n  \
                           heddle plan -d manifests/ -f change.yaml -o json            in CI, without a cluster\n  \
                           heddle edges --window 900 -o json > edges.json && heddle plan -f change.yaml --edges edges.json"
    )]
    Plan(plan::PlanArgs),
    /// Take a namespace out of the way of the mesh, and back.
    #[command(subcommand)]
    Mesh(mesh::MeshCommand),
    /// Name the callers that mutual TLS alone would refuse, and make a namespace accept nothing else.
    #[command(subcommand)]
    Mtls(mtls::MtlsCommand),
    /// Test policies, and write them from observed traffic.
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Say which way a request takes, and whether it is allowed.
    #[command(
        long_about = "Names the listener, rule, backends with their weights, timeouts and policies that a request of a workload gets, and \
                      the decision of the servers with the policy and rule that makes it. Uses the control plane's own evaluators over files \
                      or over the objects of the cluster; sends nothing. Exits with 1 only if the caller or the destination is not known.",
        after_long_help = "Examples:\n  heddle why --from shop/frontend GET http://reviews:9080/reviews/1\n  \
                           heddle why --from shop/frontend GET reviews.shop.svc.cluster.local -H 'cookie: group=b'\n  \
                           heddle why -f manifests/ --from shop/frontend DELETE reviews/1 -o json\n  \
                           heddle why --from legacy/cron GET http://10.0.0.12:9080/"
    )]
    Why(why::WhyArgs),
    /// Show all that is in force for a workload, a service or a policy.
    #[command(
        subcommand,
        long_about = "Describes a workload, a service or a policy by the control plane's own compiler, over files or over the objects of the \
                      cluster: rules by precedence with weights, policies, mTLS modes, callers that may call, conditions; on a cluster also the \
                      sidecars with their sync state and the observed traffic. Sends and changes nothing. Exits with 1 only if the name is not \
                      known or objects cannot be read.\n\n\
                      Takes the rights of `heddle analyze`; for sidecars and traffic those of `heddle proxy status`.",
        after_long_help = "Examples:\n  heddle describe workload shop/reviews\n  heddle describe service shop/reviews -f manifests/\n  \
                           heddle describe policy AuthPolicy/shop/reviews -o yaml"
    )]
    Describe(describe::DescribeCommand),
    /// The resources that sidecars request and use, with a proposal.
    #[command(
        long_about = "Prints for each workload the processor time and memory that its sidecars request, their limits, and what they use by the \
                      metrics API (metrics.k8s.io, such as metrics-server), with requests that the observed use supports, and the time that \
                      the sidecars add to the workload's calls. The proposal is as good as the time of which it is: --for watches longer. \
                      Changes nothing.\n\n\
                      Exits with 1 only if objects cannot be read; without the metrics API there is no use and no proposal, and a note says so.",
        after_long_help = "Examples:\n  heddle cost\n  heddle cost -n shop --for 600\n  heddle cost -o json | jq '.workloads[] | select(.proposal)'"
    )]
    Cost(cost::CostArgs),
    /// Print or apply the control plane.
    #[command(
        long_about = "Prints the objects of the control plane (what `kubectl apply -k config/default` would apply), or applies them \
                      server-side as field manager `heddle-cli`, and creates the Mesh `default` if there is none. Applying again changes \
                      nothing, and `kubectl apply -k config/default` may come before or after it.",
        after_long_help = "Examples:\n  heddle install > heddle.yaml\n  heddle install --apply --wait\n  heddle install --apply --wait --observe     to look before anything is enforced\n  heddle install --apply --dry-run"
    )]
    Install(install::InstallArgs),
    /// Take the control plane away again.
    #[command(
        long_about = "Deletes the webhook, the control plane, the API definitions with all their objects, the namespace and the cluster \
                      roles, in this order. Works with the control plane already dead. Pods with a sidecar are named first, and take --yes: \
                      they keep their sidecars and last configuration, but no certificate is renewed any more, so that after \
                      spec.certificates.lifetime of the Mesh (24h by default) every call between them by mutual TLS fails. Pods that start \
                      later have no sidecar, and ports with the mode Strict refuse them.",
        after_long_help = "Examples:\n  heddle uninstall --dry-run\n  heddle uninstall\n  heddle uninstall --keep-crds\n  \
                           heddle ca backup root.yaml && heddle uninstall --yes"
    )]
    Uninstall(uninstall::UninstallArgs),
    /// Check the cluster and the control plane.
    #[command(
        long_about = "Looks at the version of Kubernetes, your rights, the API definitions, the control plane, its webhook and root \
                      certificate, and at pods that should have a sidecar and have none. Each failure comes with what to do; exits with 1 \
                      if there is one. A control plane that is starting is waited for (--timeout).",
        after_long_help = "Examples:\n  heddle check --pre          before installing\n  heddle check"
    )]
    Check(check::CheckArgs),
    /// Collect the state of the mesh in one archive, with known forms of secrets replaced.
    #[command(
        long_about = "Writes one archive (tar.gz) for a bug report: versions, the output of `heddle check`, the control plane's objects, logs, \
                      metrics, states of sidecars and traffic of every replica, all objects of our kinds and routes of Gateway API with \
                      their statuses, their Events, and the findings of `heddle analyze`. Secrets and ConfigMaps are never read. The values \
                      of environment variables and annotations, of fields, headers, cookies and flags with sensitive names, PEM, JSON web \
                      tokens and passwords in URLs are replaced. A secret in a place that no rule knows, such as a path, is not found: look \
                      at the archive before you publish it. The manifest names every part, and every part that could not be read, with the \
                      reason.\n\n\
                      Exit codes: 0 the archive is written, also if parts are missing, 1 it is not.",
        after_long_help = "Examples:\n  heddle bugreport\n  heddle bugreport --to report.tar.gz --max-size 20\n  heddle bugreport --context staging"
    )]
    Bugreport(bugreport::BugreportArgs),
    /// Keep the root certificate of the mesh: back it up, restore it, or give it up.
    #[command(
        subcommand,
        after_long_help = "Examples:\n  heddle ca backup root.yaml\n  heddle ca restore root.yaml\n  heddle ca reset --yes"
    )]
    Ca(ca::CaCommand),
    /// Becomes a program that ends with the demo; the demo starts its processes this way.
    #[command(name = demo::CHILD, hide = true)]
    DemoChild {
        /// The program.
        program: PathBuf,
        /// Its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Look at the sidecars.
    #[command(subcommand)]
    Proxy(proxy::ProxyCommand),
    /// Each caller and each service, live: rate, success, durations, mutual TLS.
    #[command(
        long_about = "Prints the traffic of the mesh as the sidecars have counted it: requests and ended connections from each workload to \
                      each service, by the backend that answered. No Prometheus is needed: sidecars report to the control plane every \
                      5 s, which keeps a quarter of an hour in memory. SUCCESS leaves out 5xx, requests without a response, and the \
                      statuses of gRPC that are faults of the server. Every replica is asked; exits with 1 if one could not be.\n\n\
                      Takes the rights of `heddle proxy status`: ClusterRole heddle-proxy-reader.",
        after_long_help = "Examples:\n  heddle edges\n  heddle edges -n shop --watch\n  heddle edges --window 900 -o json | jq \
                           '.edges[] | select(.successPercent < 99)'\n  heddle edges --runtime-dir /tmp/heddle-demo-1/run"
    )]
    Edges(edges::EdgesArgs),
    /// Live requests of a namespace or a workload.
    #[command(
        long_about = "Prints the requests of workloads as their sidecars see them, each at its end: time, caller, service and pod, status, \
                      duration, bytes of the bodies, mutual TLS, method, path, response flags, and the rule of a policy that decided. \
                      Nothing has to be switched on before, and nothing restarts: the sidecars report while the command runs, up to \
                      --rate requests a second each, and for --timeout at most. What is left out is counted. Queries and headers are \
                      not shown unless asked for, and known forms of secrets never. Every replica is asked; exits with 1 if one could \
                      not be.\n\n\
                      Takes the right to `create` taps.heddle.dev in the namespace (ClusterRole heddle-tap, part of edit and admin), \
                      and a port-forward to the control plane.",
        after_long_help = "Examples:\n  heddle tap shop\n  heddle tap shop/deploy/reviews --status 5xx --from shop/frontend\n  heddle tap \
                           shop/reviews --method POST --path /api/ --header user-agent -o json\n  heddle tap shop --side client \
                           --min-duration 500 --max 20"
    )]
    Tap(tap::TapArgs),
    /// Look at rollouts: how pods ended.
    #[command(subcommand)]
    Rollout(rollout::RolloutCommand),
    /// The workloads or services with the most traffic, live.
    #[command(
        long_about = "Prints workloads or services by their traffic, the busiest first: of workloads the requests that their own sidecars \
                      received (IN) and made (OUT), of services the requests as their callers count them. The figures are those of \
                      `heddle edges`.",
        after_long_help = "Examples:\n  heddle top\n  heddle top services -n shop --watch\n  heddle top workloads --window 300 -o yaml"
    )]
    Top(top::TopArgs),
    /// The live graph as a page in the browser.
    #[command(
        long_about = "Serves a page on 127.0.0.1, under a secret path that it prints: the graph of workloads and services with rate, success, \
                      durations and mutual TLS, tables of edges and sidecars, the objects with their weights and conditions, and findings. \
                      Nothing in the cluster serves a page, and no port of it is opened: this command runs on your machine until Ctrl-C, and \
                      asks the control plane, by port-forwards through the API server, and the API server with your rights: those of \
                      `heddle edges`, `heddle proxy status` and `heddle analyze`. The page takes no asset from elsewhere.",
        after_long_help = "Examples:\n  heddle dashboard\n  heddle dashboard --port 8080 --context staging\n  heddle dashboard --runtime-dir /tmp/heddle-demo-1/run -f /tmp/heddle-demo-1/world"
    )]
    Dashboard(dashboard::DashboardArgs),
    /// Print the versions of this program and of the control plane.
    #[command(after_long_help = "Examples:\n  heddle version\n  heddle version --client")]
    Version(version::VersionArgs),
    /// Print the completions for a shell.
    #[command(
        after_long_help = "Examples:\n  heddle completions bash > /etc/bash_completion.d/heddle\n  source <(heddle completions zsh)\n  \
                           heddle completions fish > ~/.config/fish/completions/heddle.fish"
    )]
    Completions {
        /// The shell.
        shell: Shell,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("error"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| LogLines(std::io::stderr()))
        .init();
    match run(Cli::parse().command).await {
        Ok(code) => code,
        Err(error) => {
            crate::out::note!("heddle: {}", cluster::explain(&error));
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<ExitCode> {
    let done = |()| ExitCode::SUCCESS;
    match command {
        Command::Demo(args) => demo::run(&args).await.map(done),
        Command::DemoChild { program, arguments } => {
            Err(demo::become_program(&program, &arguments))
        }
        Command::Compile(args) => compile::run(&args).map(on_errors),
        Command::Analyze(args) => analyze::run(&args).await.map(on_errors),
        Command::Plan(args) => plan::run(&args).await.map(worse),
        Command::Mesh(command) => mesh::run(&command).await.map(done),
        Command::Mtls(command) => mtls::run(&command).await.map(worse),
        Command::Policy(command) => policy::run(&command).await.map(worse),
        Command::Why(args) => why::run(&args).await.map(done),
        Command::Describe(command) => describe::run(&command).await.map(done),
        Command::Cost(args) => cost::run(&args).await.map(done),
        Command::Install(args) => install::run(&args).await.map(done),
        Command::Uninstall(args) => uninstall::run(&args).await.map(done),
        Command::Check(args) => check::run(&args).await.map(done),
        Command::Bugreport(args) => bugreport::run(&args).await.map(done),
        Command::Ca(command) => ca::run(&command).await.map(done),
        Command::Proxy(command) => proxy::run(&command).await.map(done),
        Command::Rollout(command) => rollout::run(&command).await.map(done),
        Command::Edges(args) => edges::run(&args).await.map(done),
        Command::Tap(args) => tap::run(&args).await.map(done),
        Command::Top(args) => top::run(&args).await.map(done),
        Command::Dashboard(args) => dashboard::run(&args).await.map(done),
        Command::Version(args) => version::run(&args).await.map(done),
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "heddle", &mut text);
            out::raw(&String::from_utf8_lossy(&text));
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// The exit code of commands for CI: 2 is not an error, but a change or policy that is not as it should be.
fn worse(worse: bool) -> ExitCode {
    match worse {
        true => ExitCode::from(2),
        false => ExitCode::SUCCESS,
    }
}

fn on_errors(errors: usize) -> ExitCode {
    if errors == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn help(command: &mut clap::Command, found: &mut Vec<(String, String)>) {
        let parts = [
            command.get_about(),
            command.get_long_about(),
            command.get_after_help(),
            command.get_after_long_help(),
        ];
        let mut texts: Vec<String> = parts
            .into_iter()
            .flatten()
            .map(ToString::to_string)
            .collect();
        for argument in command.get_arguments() {
            let parts = [argument.get_help(), argument.get_long_help()];
            texts.extend(parts.into_iter().flatten().map(ToString::to_string));
        }
        let name = command.get_name().to_owned();
        found.extend(texts.into_iter().map(|text| (name.clone(), text)));
        for inner in command.get_subcommands_mut() {
            help(inner, found);
        }
    }

    #[test]
    fn the_help_of_every_command_has_single_spaces_in_its_sentences() {
        let mut found = Vec::new();
        help(&mut Cli::command(), &mut found);
        assert!(found.iter().any(|(name, _)| name == "bugreport"));
        for (name, text) in &found {
            // An example is indented, and may have a remark in a column of its own.
            let prose = text.lines().filter(|line| !line.starts_with("  "));
            for line in prose {
                assert!(!line.contains("  "), "{name}: {line:?}");
            }
        }
    }
}
