//! The agent without `async`, for scripts and notebooks.

use rlaif_core::{Constitution, Critique, Judgment, Model, Prompt, Revision};

use crate::error::Error;

/// [`crate::RlaifAgent`] with calls that wait for their answer.
///
/// ```
/// use rlaif::{open, blocking::RlaifAgent, Constitution};
/// # fn main() -> Result<(), rlaif::Error> {
/// // Scripted models stand in for `open("http://localhost:8000/v1#name")`.
/// let writer = open(|_: &[rlaif::Message]| "Good day! Boil it for seven minutes.".to_owned())?;
/// let judge = open(|messages: &[rlaif::Message]| {
///     let text = messages.iter().map(|m| m.content.as_str()).collect::<String>();
///     let polite_first = text.find("Good day!") < text.find("Boil it.\n");
///     if text.contains("Quality:") { "Critique: It is curt.\nQuality: 4".to_owned() }
///     else if polite_first { "(A)".to_owned() } else { "(B)".to_owned() }
/// })?;
/// let (prompt, answer) = ("How do I boil an egg?", "Boil it.");
///
/// let agent = RlaifAgent::new(writer, judge, Constitution::read("default.toml")?);
/// let critique = agent.generate_critique(prompt, answer)?;
/// let revision = agent.improve_response(prompt, answer, &critique)?;
/// let verdict = agent.generate_preference_data(prompt, answer, &revision.text)?;
/// println!("{:?} p={:.2}: {}", verdict.outcome, verdict.p_first, verdict.reason);
///
/// assert_eq!(critique.quality, Some(4));
/// assert_eq!(revision.text, "Good day! Boil it for seven minutes.");
/// // The revision was given second and wins in both orders.
/// assert!(verdict.p_first.get().is_some_and(|p| p < 0.5));
/// assert_eq!(verdict.orders_agree, Some(true));
/// # Ok(())
/// # }
/// ```
pub struct RlaifAgent {
    inner: crate::RlaifAgent,
    runtime: std::io::Result<tokio::runtime::Runtime>,
}

impl RlaifAgent {
    /// See [`crate::RlaifAgent::new`].
    #[must_use]
    pub fn new(base_model: Model, critic_model: Model, constitution: Constitution) -> Self {
        crate::RlaifAgent::new(base_model, critic_model, constitution).into()
    }

    fn wait<T>(&self, future: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        match &self.runtime {
            Ok(runtime) => runtime.block_on(future),
            Err(e) => Err(Error::input(
                format!("cannot start the runtime that waits for answers: {e}"),
                "check the limit on open files and threads",
            )),
        }
    }

    /// See [`crate::RlaifAgent::generate_critique`].
    ///
    /// # Errors
    /// As there.
    pub fn generate_critique(
        &self,
        prompt: impl Into<Prompt>,
        response: &str,
    ) -> Result<Critique, Error> {
        self.wait(self.inner.generate_critique(prompt, response))
    }

    /// See [`crate::RlaifAgent::improve_response`].
    ///
    /// # Errors
    /// As there.
    pub fn improve_response(
        &self,
        prompt: impl Into<Prompt>,
        response: &str,
        critique: &Critique,
    ) -> Result<Revision, Error> {
        self.wait(self.inner.improve_response(prompt, response, critique))
    }

    /// See [`crate::RlaifAgent::generate_preference_data`].
    ///
    /// # Errors
    /// As there.
    pub fn generate_preference_data(
        &self,
        prompt: impl Into<Prompt>,
        response_a: &str,
        response_b: &str,
    ) -> Result<Judgment, Error> {
        self.wait(
            self.inner
                .generate_preference_data(prompt, response_a, response_b),
        )
    }
}

impl From<crate::RlaifAgent> for RlaifAgent {
    fn from(inner: crate::RlaifAgent) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        RlaifAgent { inner, runtime }
    }
}
