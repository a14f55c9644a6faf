//! A service of gRPC with streams that echo, and a client of it. The service is that of ADS.

use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, transport};

const PATIENCE: Duration = Duration::from_secs(20);

struct Echo;

type Answers<T> = Pin<Box<dyn tokio_stream::Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Echo {
    type StreamAggregatedResourcesStream = Answers<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Answers<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        _: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("the other one echoes"))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let answers = request.into_inner().map(|message| {
            Ok(DeltaDiscoveryResponse {
                nonce: message?.response_nonce,
                ..Default::default()
            })
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Serves until the test's process ends.
pub fn serve(at: SocketAddr) {
    std::thread::spawn(move || {
        let mut server = transport::Server::builder();
        let service = AggregatedDiscoveryServiceServer::new(Echo);
        runtime()
            .block_on(server.add_service(service).serve(at))
            .unwrap();
    });
}

/// A client that makes one call after the other on one connection.
pub struct Caller {
    runtime: Runtime,
    client: AggregatedDiscoveryServiceClient<transport::Channel>,
}

impl Caller {
    pub fn connect(to: SocketAddr) -> Self {
        let runtime = runtime();
        let connecting = AggregatedDiscoveryServiceClient::connect(format!("http://{to}"));
        let client = runtime.block_on(connecting).unwrap();
        Self { runtime, client }
    }

    /// Makes a call of one message and waits for its echo.
    pub fn call(&mut self) -> Result<(), String> {
        let call = async {
            let message = tokio_stream::once(DeltaDiscoveryRequest::default());
            let answers = self.client.delta_aggregated_resources(message).await?;
            answers.into_inner().message().await
        };
        let call = async { tokio::time::timeout(PATIENCE, call).await };
        let answer = self.runtime.block_on(call);
        let answer = answer.map_err(|_| "no answer in time".to_owned())?;
        let answer = answer.map_err(|status| status.to_string())?;
        answer.map(drop).ok_or_else(|| "no echo".to_owned())
    }
}

/// An open stream.
pub struct Stream {
    runtime: Runtime,
    to: mpsc::Sender<DeltaDiscoveryRequest>,
    from: Streaming<DeltaDiscoveryResponse>,
    sent: u32,
}

impl Stream {
    pub fn open(to: SocketAddr) -> Self {
        let runtime = runtime();
        let (sender, messages) = mpsc::channel(1);
        let opening = async {
            let address = format!("http://{to}");
            let client = AggregatedDiscoveryServiceClient::connect(address).await;
            let messages = ReceiverStream::new(messages);
            client.unwrap().delta_aggregated_resources(messages).await
        };
        let from = runtime.block_on(opening).unwrap().into_inner();
        let mut stream = Self {
            runtime,
            to: sender,
            from,
            sent: 0,
        };
        stream.echoes().unwrap();
        stream
    }

    /// Sends a message and waits for its echo.
    pub fn echoes(&mut self) -> Result<(), String> {
        self.sent += 1;
        let message = DeltaDiscoveryRequest {
            response_nonce: self.sent.to_string(),
            ..Default::default()
        };
        let echo = async {
            let gone = |_| "the stream has ended".to_owned();
            self.to.send(message).await.map_err(gone)?;
            let answer = tokio::time::timeout(PATIENCE, self.from.message()).await;
            let answer = answer.map_err(|_| "no echo in time".to_owned())?;
            let answer = answer.map_err(|status| status.to_string())?;
            let nonce = answer.map(|answer| answer.nonce);
            (nonce == Some(self.sent.to_string()))
                .then_some(())
                .ok_or_else(|| format!("{nonce:?} is not {}", self.sent))
        };
        self.runtime.block_on(echo)
    }
}
