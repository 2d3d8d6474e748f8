//! Binary caches over HTTP; the only room that uses the HTTP client.
//!
//! Status codes mean the same as in Nix: for 403, 404 and 410 a file is absent (S3 answers 403 for
//! absent keys); 408, 429 and most of 5xx are retried. Proxies are taken from the environment
//! (`http_proxy`, `https_proxy`, `all_proxy`, `no_proxy`), SOCKS too; certificates are checked against
//! the authorities of the system, or those in `NIX_SSL_CERT_FILE` or `SSL_CERT_FILE`; HTTP/2 is used
//! if the server selects it in ALPN.

mod client;
mod download;
mod requests;
mod target;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use crate::nix::store_path::StorePathHash;
use crate::substituter::body::Body;
use crate::substituter::encoding::Encoding;
use crate::substituter::error::SourceError;
use crate::substituter::range::Resumption;
use crate::substituter::source::{
    Answer, CACHE_INFO, CACHE_INFO_NAME, LISTING, NARINFO, Options, Stream, Substituter,
};
use crate::substituter::traffic::Traffic;
use download::Download;
use requests::{Server, header};
use target::Target;

/// Number of buffers between the network and the reader of a body, of some 16 KiB each: a reader that stands
/// still throttles the server soon, beside what the kernel holds of a connection.
const QUEUE_LENGTH: usize = 4;

pub(super) struct HttpCache(Arc<Server>);

impl HttpCache {
    pub(super) fn open(url: &str, options: &Options) -> Result<Self, SourceError> {
        Ok(Self(Arc::new(Server::new(url, options)?)))
    }

    /// The file that a URL names, of which a server is not expected to take its time.
    pub(super) async fn file(&self, url: &str) -> Result<Option<Stream>, SourceError> {
        self.stream(self.0.target(url), self.0.stall, None).await
    }

    /// A file, whose first byte may take so long.
    async fn stream(
        &self,
        target: Result<Target, SourceError>,
        patience: Duration,
        ended: Option<watch::Receiver<bool>>,
    ) -> Result<Option<Stream>, SourceError> {
        let server = &self.0;
        let request = server.traffic.request();
        let response = async {
            let target = target?;
            let response = server.ask(&target, patience, |r| std::future::ready(Ok(r)));
            let response = response.await?;
            Ok(response.map(|r| (target, r)))
        };
        let (target, response) = match response.await {
            Ok(Some(found)) => found,
            Ok(None) => {
                request.absent();
                return Ok(None);
            }
            Err(e) => {
                request.failed(&e);
                return Err(e);
            }
        };
        let shown = target.shown.clone();
        let encoding = Encoding::of(header(&response, "content-encoding"), &shown)?;
        let is_encoded = !encoding.is_identity();
        let download = Download {
            source: server.clone(),
            target,
            encoding: encoding.clone(),
            resumption: Resumption::offered(|name| header(&response, name), is_encoded),
            length: response.content_length(),
            at: 0,
            patience,
            ended,
        };
        let (sender, pieces) = mpsc::channel(QUEUE_LENGTH);
        tokio::spawn(download.run(request, response, sender));
        let stream = encoding.stream(Box::new(Body::new(pieces)), &shown)?;
        Ok(Some(stream))
    }
}

impl Substituter for HttpCache {
    fn url(&self) -> &str {
        &self.0.url
    }

    fn is_server(&self) -> bool {
        true
    }

    fn traffic(&self) -> &Traffic {
        &self.0.traffic
    }

    fn cache_info(&self) -> Answer<'_, Option<Bytes>> {
        Box::pin(self.0.text(CACHE_INFO_NAME, CACHE_INFO))
    }

    fn narinfo(&self, hash: StorePathHash) -> Answer<'_, Option<Bytes>> {
        Box::pin(async move { self.0.text(&format!("{hash}.narinfo"), NARINFO).await })
    }

    fn listing_start(&self, hash: StorePathHash) -> Answer<'_, Option<Bytes>> {
        Box::pin(async move { self.0.text(&format!("{hash}.ls"), LISTING).await })
    }

    fn nar(&self, url: &str) -> Answer<'_, Option<Stream>> {
        let target = self.0.target(url);
        Box::pin(async move { self.stream(target, self.0.first_byte(), None).await })
    }

    fn nar_until(
        &self,
        url: &str,
        ended: watch::Receiver<bool>,
        is_ahead: bool,
    ) -> Answer<'_, Option<Stream>> {
        let target = self.0.target(url);
        Box::pin(async move {
            let target = target.map(|target| target.ahead(is_ahead));
            self.stream(target, self.0.first_byte(), Some(ended)).await
        })
    }

    fn list(&self) -> Answer<'_, Vec<StorePathHash>> {
        let url = self.0.url.clone();
        Box::pin(std::future::ready(Err(SourceError::NoListing { url })))
    }
}
