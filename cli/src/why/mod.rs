//! `heddle why`: the listener, rule and backends that a request gets, and the decisions of its servers.

mod bounds;
mod browsers;
mod document;
mod outside;
mod rule;
mod text;
mod url;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use heddle_policy_compiler::{Call, NamespacedName};

use crate::cluster::ClusterArgs;
use crate::findings;
use crate::out::{self, Format};
use crate::sources::{Objects, Outcome};

pub use bounds::{limit, overload};
pub use document::deciding;
pub use text::{changes, fault_line, policy, resending, servers, share, stop, timeouts};
pub use url::is_token;

/// Options of `heddle why`.
#[derive(Args, Debug)]
pub struct WhyArgs {
    /// The workload that sends the request, or one of its pods.
    #[arg(long, value_name = "NAMESPACE/WORKLOAD")]
    from: String,
    /// The method, in capitals.
    method: String,
    /// The URL as the application calls it; `http://` may be left out.
    url: String,
    /// A header, as `NAME: VALUE`; may be repeated.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// Files or folders of YAML in place of the cluster; `-` is standard input.
    #[arg(short = 'f', long = "filename", value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Runs the command.
///
/// # Errors
/// An argument is not a workload, method, URL or header; the objects cannot be read; or the caller or the destination is not known.
pub async fn run(args: &WhyArgs) -> Result<()> {
    let call = call(args)?;
    let objects = Objects::from(&args.paths, &args.cluster).await?;
    let Outcome {
        compiled,
        findings: found,
        ..
    } = objects.compile();
    let errors = findings::errors(&found);
    if errors > 0 {
        let errors = findings::plural(errors, "error");
        crate::out::note!("{errors} in the objects; run `heddle analyze`, which names them");
    }
    let explanation = compiled.explain(&call)?;
    let text = || text::render(&call, &explanation, out::has_colors());
    args.output.print(&document::of(&explanation), text)
}

fn call(args: &WhyArgs) -> Result<Call> {
    let parts = args.from.split_once('/');
    let parts = parts.filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty());
    let (namespace, name) = parts.with_context(|| {
        let from = &args.from;
        format!("{from:?} is not a workload; write --from NAMESPACE/WORKLOAD")
    })?;
    let method = &args.method;
    if !is_token(method) {
        bail!("{method:?} is not a method; write METHOD URL, such as GET http://reviews/");
    }
    let url = url::parse(&args.url)?;
    let headers = args.headers.iter().map(|text| header(text));
    Ok(Call {
        from: NamespacedName::new(namespace, name),
        host: url.host,
        port: url.port,
        tls: url.tls,
        method: method.clone(),
        path: url.path,
        headers: headers.collect::<Result<_>>()?,
    })
}

fn header(text: &str) -> Result<(String, String)> {
    let parts = text.split_once(':');
    let parts = parts.filter(|(name, _)| is_token(name));
    let (name, value) =
        parts.with_context(|| format!("{text:?} is not a header; write -H \"NAME: VALUE\""))?;
    Ok((name.to_ascii_lowercase(), value.trim().to_owned()))
}

/// Its output for a test of all printers.
#[cfg(test)]
pub fn printed(of: &crate::hostile::Hostile) -> String {
    let call = |host: &str, path: &str| Call {
        from: NamespacedName::new("shop", "api-0"),
        host: host.to_owned(),
        port: 80,
        tls: false,
        method: of.text.clone(),
        path: path.to_owned(),
        headers: vec![("x-a".to_owned(), of.text.clone())],
    };
    let path = format!("/{}", of.text);
    let calls = [
        call("api.shop", &path),
        call("api.shop", "/"),
        call(&of.text, &path),
    ];
    let explained = calls
        .iter()
        .map(|call| match of.outcome.compiled.explain(call) {
            Ok(explanation) => [true, false]
                .map(|colors| text::render(call, &explanation, colors))
                .join("\n"),
            Err(error) => crate::cluster::explain(&error.into()),
        });
    explained.collect::<Vec<_>>().join("\n")
}
