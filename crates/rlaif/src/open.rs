//! Opening a model by one call: from a URL with a model name, or from a closure.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rlaif_core::script::ScriptedModel;
use rlaif_core::{LanguageModel, Message, Model};

use crate::error::Error;

/// Whatever can be opened as a model.
pub trait IntoModel {
    /// Opens it. No call is made yet.
    ///
    /// # Errors
    /// [`Error::Open`] with what to do.
    fn into_model(self) -> Result<Model, Error>;
}

/// Opens a model: `"http://localhost:8000/v1#name"`, the path of a checkpoint folder, or a
/// closure from a conversation to an answer.
///
/// ```
/// let model = rlaif::open(|messages: &[rlaif::Message]| format!("{} turns", messages.len()))?;
/// assert_eq!(model.id().as_str(), "closure");
/// # Ok::<(), rlaif::Error>(())
/// ```
///
/// # Errors
/// [`Error::Open`].
pub fn open(source: impl IntoModel) -> Result<Model, Error> {
    source.into_model()
}

impl IntoModel for &str {
    fn into_model(self) -> Result<Model, Error> {
        if self.starts_with("http://") || self.starts_with("https://") {
            return remote(self);
        }
        Path::new(self).into_model()
    }
}

impl IntoModel for String {
    fn into_model(self) -> Result<Model, Error> {
        self.as_str().into_model()
    }
}

impl IntoModel for &Path {
    fn into_model(self) -> Result<Model, Error> {
        if self.is_dir() {
            return folder(self);
        }
        Err(Error::Open {
            model: self.display().to_string(),
            problem: "it is neither a URL such as `http://localhost:8000/v1#name` nor a folder"
                .into(),
        })
    }
}

impl IntoModel for PathBuf {
    fn into_model(self) -> Result<Model, Error> {
        self.as_path().into_model()
    }
}

impl IntoModel for Model {
    fn into_model(self) -> Result<Model, Error> {
        Ok(self)
    }
}

impl IntoModel for ScriptedModel {
    fn into_model(self) -> Result<Model, Error> {
        Ok(Arc::new(self))
    }
}

impl<F> IntoModel for F
where
    F: Fn(&[Message]) -> String + Send + Sync + 'static,
{
    fn into_model(self) -> Result<Model, Error> {
        let model: Arc<dyn LanguageModel> =
            Arc::new(ScriptedModel::new("closure", move |messages| {
                Ok(self(messages))
            }));
        Ok(model)
    }
}

#[cfg(feature = "local")]
fn folder(path: &Path) -> Result<Model, Error> {
    let model = rlaif_engine::LocalModel::open(path, rlaif_engine::Options::default())?;
    Ok(Arc::new(model))
}

#[cfg(not(feature = "local"))]
fn folder(path: &Path) -> Result<Model, Error> {
    Err(Error::Open {
        model: path.display().to_string(),
        problem: "this build runs no models in memory; build with `--features local`".into(),
    })
}

#[cfg(feature = "remote")]
fn remote(url: &str) -> Result<Model, Error> {
    let fault = |e: rlaif_client::ClientError| Error::Open {
        // What follows `@` is the host; what stands before it may be a secret.
        model: url.rsplit('@').next().unwrap_or_default().to_owned(),
        problem: e.to_string(),
    };
    let config = rlaif_client::EndpointConfig::from_url(url).map_err(fault)?;
    Ok(Arc::new(
        rlaif_client::Endpoint::open(config).map_err(fault)?,
    ))
}

#[cfg(not(feature = "remote"))]
fn remote(url: &str) -> Result<Model, Error> {
    Err(Error::Open {
        model: url.rsplit('@').next().unwrap_or_default().to_owned(),
        problem: "this build has no client; build with `--features remote`".into(),
    })
}
