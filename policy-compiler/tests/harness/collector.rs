//! A collector of OpenTelemetry: OTLP over gRPC, as its project publishes it.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "tests; each test binary uses a part of this"
)]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{
    LogsService, LogsServiceServer,
};
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::trace::v1::Span;
use tonic::{Request, Response, Status, transport};

/// A span with the name of the service that sent it.
#[derive(Clone, Debug)]
pub struct Received {
    pub service: String,
    pub span: Span,
}

impl Received {
    /// The text of an attribute.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        text(&self.span.attributes, name)
    }
}

fn text<'a>(attributes: &'a [KeyValue], name: &str) -> Option<&'a str> {
    let found = attributes.iter().find(|attribute| attribute.key == name)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text),
        _ => None,
    }
}

/// A log record with the name of the service that sent it.
#[derive(Clone, Debug)]
pub struct Line {
    pub service: String,
    pub record: LogRecord,
}

impl Line {
    /// The text of an attribute.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        text(&self.record.attributes, name)
    }
}

/// A running collector: spans and log records. Its thread ends with the test's process.
#[derive(Clone, Default)]
pub struct Collector(Arc<Mutex<Vec<Received>>>, Arc<Mutex<Vec<Line>>>);

impl Collector {
    pub fn start(at: &str) -> Result<Self> {
        Self::start_with(at, None)
    }

    /// The same by TLS, with a certificate and its key in PEM.
    pub fn start_by_tls(at: &str, (chain, key): &(String, String)) -> Result<Self> {
        let identity = transport::Identity::from_pem(chain, key);
        let tls = transport::ServerTlsConfig::new().identity(identity);
        Self::start_with(at, Some(tls))
    }

    fn start_with(at: &str, tls: Option<transport::ServerTlsConfig>) -> Result<Self> {
        let (at, collector) = (at.parse::<SocketAddr>()?, Self::default());
        let (service, (ready, started)) = (collector.clone(), mpsc::channel());
        std::thread::spawn(move || -> Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async {
                let incoming = transport::server::TcpIncoming::bind(at)?;
                ready.send(())?;
                let mut server = transport::Server::builder();
                if let Some(tls) = tls {
                    server = server.tls_config(tls)?;
                }
                let server = server
                    .add_service(LogsServiceServer::new(service.clone()))
                    .add_service(TraceServiceServer::new(service));
                Ok(server.serve_with_incoming(incoming).await?)
            })
        });
        started.recv().context("the collector does not listen")?;
        Ok(collector)
    }

    /// The number of services of which there are log records.
    pub fn services_with_lines(&self) -> usize {
        let lines = self.1.lock().unwrap();
        let services: BTreeSet<&str> = lines.iter().map(|line| &*line.service).collect();
        services.len()
    }

    /// Removes and returns the log records, once this holds for them.
    pub fn take_lines_once(&self, holds: impl Fn(&[Line]) -> bool) -> Result<Vec<Line>> {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !holds(&self.1.lock().unwrap()) {
            ensure!(Instant::now() < deadline, "{:#?}", self.1.lock().unwrap());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(std::mem::take(&mut *self.1.lock().unwrap()))
    }

    /// The spans so far.
    pub fn spans(&self) -> Vec<Received> {
        self.0.lock().unwrap().clone()
    }

    /// Removes and returns the spans, once there are so many.
    pub fn take(&self, count: usize) -> Result<Vec<Received>> {
        let all = self.take_once(|spans| spans.len() >= count)?;
        ensure!(all.len() == count, "{count}: {all:#?}");
        Ok(all)
    }

    /// Removes and returns the spans, once this holds for them.
    pub fn take_once(&self, holds: impl Fn(&[Received]) -> bool) -> Result<Vec<Received>> {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !holds(&self.spans()) {
            ensure!(Instant::now() < deadline, "{:#?}", self.spans());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(std::mem::take(&mut *self.0.lock().unwrap()))
    }
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut all = self.0.lock().unwrap();
        for resource in request.into_inner().resource_spans {
            let attributes = resource.resource.unwrap_or_default().attributes;
            let service = text(&attributes, "service.name").unwrap_or_default();
            let spans = resource
                .scope_spans
                .into_iter()
                .flat_map(|scope| scope.spans);
            all.extend(spans.map(|span| Received {
                service: service.to_owned(),
                span,
            }));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl LogsService for Collector {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        let mut all = self.1.lock().unwrap();
        for resource in request.into_inner().resource_logs {
            let attributes = resource.resource.unwrap_or_default().attributes;
            let service = text(&attributes, "service.name").unwrap_or_default();
            let records = resource.scope_logs.into_iter();
            let records = records.flat_map(|scope| scope.log_records);
            all.extend(records.map(|record| Line {
                service: service.to_owned(),
                record,
            }));
        }
        Ok(Response::new(ExportLogsServiceResponse::default()))
    }
}
