//! What rmcp asks of a server, handed on to where it is done.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};

use action::Environment;
use futures_util::FutureExt;
use gateway::Caller;
use gateway::upstream::{Party, Server};
use rmcp::ServerHandler;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CancelTaskParams, CancelledNotificationParam,
    ClientNotification, CompleteRequestParams, CompleteResult, CustomNotification, CustomRequest,
    CustomResult, DiscoverResult, ErrorData, GetExtensions, GetPromptRequestParams, GetPromptResponse,
    GetSkillRequestParams, GetSkillResult, GetTaskParams, GetTaskResult, InitializeRequestParams,
    InitializeResult, ListPromptsResult, ListResourceTemplatesResult, ListResourcesResult, ListSkillsResult,
    ListToolsResult, NotificationMetaObject, PaginatedRequestParams, ProtocolVersion,
    ReadResourceDirectoryRequestParams, ReadResourceRequestParams, ReadResourceResponse,
    RootsListChangedNotification, ServerConfig, SetLevelRequestParams, SubscribeRequestParams,
    SubscriptionFilter, TASKS_EXTENSION_ID, Tool, UnsubscribeRequestParams, UpdateTaskParams,
};
use rmcp::service::{NotificationContext, RequestContext, RoleServer, SubscriptionContext};

use super::custom::may_pass;
use super::inquiry::Inquiry;
use super::party::{Seated, Session, Stateless};
use super::scope::Scope;
use super::visit::Visit;
use super::{Mcp, own, shown};

type Context = RequestContext<RoleServer>;
type Heard = NotificationContext<RoleServer>;
type Page = Option<PaginatedRequestParams>;

/// One address, as rmcp serves it: for all of a session, or for one request without one.
pub(super) struct Face {
    pub(super) mcp: Arc<Mcp>,
    pub(super) scope: Scope,
    seated: OnceLock<Seated>,
}

impl Face {
    pub(super) fn new(mcp: Arc<Mcp>, scope: Scope) -> Face {
        Face { mcp, scope, seated: OnceLock::new() }
    }

    /// The client's session, once it has greeted as clients with sessions do.
    pub(super) fn session(&self) -> Option<&Arc<Session>> {
        self.seated.get().map(|seated| &seated.session)
    }

    /// The client, as servers may speak to it.
    pub(super) fn party(&self, inquiry: &Inquiry) -> Arc<dyn Party> {
        if let Some(session) = self.session() {
            return Arc::clone(session) as Arc<dyn Party>;
        }
        let owner = self.owner(&inquiry.visit.caller);
        let input = self.scope.gateway.mcp_settings().input();
        Arc::new(Stateless::new(&self.mcp.desk, &owner, inquiry.client.clone(), input))
    }

    /// Who asks: what one may have, others may not take up.
    pub(super) fn owner(&self, caller: &Caller) -> String {
        owner(self.scope.gateway.environment(), caller)
    }

    fn seat(&self, greeting: &InitializeRequestParams, context: &Context) {
        let Ok(visit) = Visit::of(&context.extensions) else { return };
        let session = Session::new(
            context.peer.clone(),
            (Arc::clone(&visit.caller), self.owner(&visit.caller)),
            (greeting.client_info.clone(), greeting.capabilities.clone()),
            self.scope.gateway.mcp_settings().input(),
            self.scope.gateway.tools_changed(&self.scope.tenant).ok(),
        );
        let _ = self.seated.set(Seated::new(&self.scope.gateway, session));
    }

    async fn greet(
        &self,
        greeting: InitializeRequestParams,
        context: &Context,
    ) -> Result<InitializeResult, ErrorData> {
        context.peer.set_peer_info(greeting.clone());
        let mut answer = shown::look(&self.scope, &Visit::of(&context.extensions)?.caller).await;
        self.seat(&greeting, context);
        answer.protocol_version = self.negotiate_initialize(&greeting)?.protocol_version;
        // Its revision has tasks of another kind.
        if let Some(extensions) = &mut answer.capabilities.extensions {
            extensions.remove(TASKS_EXTENSION_ID);
        }
        answer.capabilities.extensions.take_if(|extensions| extensions.is_empty());
        Ok(answer)
    }

    /// With the `_meta` that it came with, which rmcp keeps beside it.
    async fn pass_word(&self, notification: ClientNotification, heard: &Heard, to: impl Fn(&Server) -> bool) {
        let Some(session) = self.session() else { return };
        let mut notification = notification;
        if let Some(meta) = heard.extensions.get::<NotificationMetaObject>() {
            notification.extensions_mut().insert(meta.clone());
        }
        let party = Arc::clone(session) as Arc<dyn Party>;
        for server in self.scope.servers().iter().filter(|server| to(server)) {
            if self.scope.gateway.may_speak_with(&session.caller, server.name()).await.is_ok() {
                server.tell(&party, notification.clone()).await;
            }
        }
    }
}

/// Names who asks, in which environment.
pub(super) fn owner(environment: Environment, caller: &Caller) -> String {
    serde_json::json!([environment.as_str(), caller.tenant.as_str(), caller.subject.as_str()]).to_string()
}

/// What breaks in the midst of answering is an error: rmcp says nothing of it, and whoever asked would wait.
pub(super) fn answer<T>(
    work: impl Future<Output = Result<T, ErrorData>>,
) -> impl Future<Output = Result<T, ErrorData>> {
    let broken = |_| {
        tracing::error!("the answer to a client's request broke");
        Err(ErrorData::internal_error("the gateway could not answer this", None))
    };
    // No `async fn`: that would keep room for the work twice.
    AssertUnwindSafe(work).catch_unwind().map(move |done| done.unwrap_or_else(broken))
}

impl ServerHandler for Face {
    fn get_info(&self) -> ServerConfig {
        shown::known(&self.scope)
    }

    async fn initialize(
        &self,
        greeting: InitializeRequestParams,
        context: Context,
    ) -> Result<InitializeResult, ErrorData> {
        answer(self.greet(greeting, &context)).await
    }

    async fn discover(&self, context: Context) -> Result<DiscoverResult, ErrorData> {
        let versions = ProtocolVersion::KNOWN_VERSIONS.to_vec();
        let caller = &Visit::of(&context.extensions)?.caller;
        let shown = answer(async { Ok(shown::look(&self.scope, caller).await) }).await?;
        Ok(DiscoverResult::from_server_info(versions, shown))
    }

    async fn list_tools(&self, asked: Page, context: Context) -> Result<ListToolsResult, ErrorData> {
        answer(self.tools(asked, &context)).await
    }

    async fn call_tool(
        &self,
        asked: CallToolRequestParams,
        context: Context,
    ) -> Result<CallToolResponse, ErrorData> {
        answer(async { self.call(asked, &Inquiry::of(&context)?).await }).await
    }

    /// What headers are held against; known as soon as its server has listed it once.
    fn get_tool(&self, name: &str) -> Option<Tool> {
        let (server, name) = self.scope.inward(name).filter(|_| !own::is_own_tool(name))?;
        let tools = server.known_tools()?;
        tools.iter().find(|seen| seen.tool.name == name).map(|seen| seen.tool.clone())
    }

    async fn list_prompts(&self, asked: Page, context: Context) -> Result<ListPromptsResult, ErrorData> {
        answer(self.prompts(asked, &context)).await
    }

    async fn get_prompt(
        &self,
        asked: GetPromptRequestParams,
        context: Context,
    ) -> Result<GetPromptResponse, ErrorData> {
        answer(self.prompt(asked, &context)).await
    }

    async fn list_resources(&self, asked: Page, context: Context) -> Result<ListResourcesResult, ErrorData> {
        answer(self.resources(asked, &context)).await
    }

    async fn list_resource_templates(
        &self,
        asked: Page,
        context: Context,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        answer(self.templates(asked, &context)).await
    }

    async fn read_resource(
        &self,
        asked: ReadResourceRequestParams,
        context: Context,
    ) -> Result<ReadResourceResponse, ErrorData> {
        answer(self.resource(asked, &context)).await
    }

    async fn complete(
        &self,
        asked: CompleteRequestParams,
        context: Context,
    ) -> Result<CompleteResult, ErrorData> {
        answer(self.completion(asked, &context)).await
    }

    async fn set_level(&self, asked: SetLevelRequestParams, context: Context) -> Result<(), ErrorData> {
        answer(self.log_level(asked, &context)).await
    }

    async fn subscribe(&self, asked: SubscribeRequestParams, context: Context) -> Result<(), ErrorData> {
        answer(self.follow(&asked.uri, &context)).await
    }

    async fn unsubscribe(&self, asked: UnsubscribeRequestParams, context: Context) -> Result<(), ErrorData> {
        answer(self.unfollow(&asked.uri, &context)).await
    }

    /// All of it, as far as the servers have it: rmcp cuts it to what is shown of them.
    fn accepted_subscription_filter(&self, requested: &SubscriptionFilter) -> Option<SubscriptionFilter> {
        Some(requested.clone())
    }

    async fn listen(&self, subscription: SubscriptionContext) -> Result<(), ErrorData> {
        answer(self.hear(subscription)).await
    }

    async fn get_task(&self, asked: GetTaskParams, context: Context) -> Result<GetTaskResult, ErrorData> {
        answer(self.task(&asked, &context)).await
    }

    async fn update_task(&self, asked: UpdateTaskParams, context: Context) -> Result<(), ErrorData> {
        answer(self.task_answer(&asked, &context)).await
    }

    async fn cancel_task(&self, asked: CancelTaskParams, context: Context) -> Result<(), ErrorData> {
        answer(self.task_end(&asked, &context)).await
    }

    async fn list_skills(&self, asked: Page, context: Context) -> Result<ListSkillsResult, ErrorData> {
        answer(self.skills(asked, &context)).await
    }

    async fn get_skill(
        &self,
        asked: GetSkillRequestParams,
        context: Context,
    ) -> Result<GetSkillResult, ErrorData> {
        answer(self.skill(asked, &context)).await
    }

    async fn read_resource_directory(
        &self,
        asked: ReadResourceDirectoryRequestParams,
        context: Context,
    ) -> Result<ListResourcesResult, ErrorData> {
        answer(self.directory(asked, &context)).await
    }

    async fn on_custom_request(
        &self,
        request: CustomRequest,
        context: Context,
    ) -> Result<CustomResult, ErrorData> {
        answer(self.custom(request, &context)).await
    }

    async fn on_cancelled(&self, cancelled: CancelledNotificationParam, heard: Heard) {
        let Some(id) = &cancelled.request_id else { return };
        match (self.session(), Visit::of(&heard.extensions)) {
            (Some(session), _) => session.give_up(id),
            (None, Ok(visit)) => self.mcp.desk.give_up(&self.owner(&visit.caller), id),
            (None, Err(_)) => {}
        }
    }

    async fn on_initialized(&self, _: Heard) {
        self.follow_changes().await;
    }

    async fn on_roots_list_changed(&self, heard: Heard) {
        self.pass_word(RootsListChangedNotification::default().into(), &heard, |_| true).await;
    }

    async fn on_custom_notification(&self, notification: CustomNotification, heard: Heard) {
        let CustomNotification { method, params, .. } = notification;
        let takes = |server: &Server| may_pass(server, &method);
        self.pass_word(CustomNotification::new(method.clone(), params).into(), &heard, takes).await;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use rmcp::ServiceExt;
    use rmcp::model::CallToolResult;

    use super::*;

    /// Breaks when it is asked for its tools, and answers calls.
    struct Fragile;

    impl ServerHandler for Fragile {
        fn get_info(&self) -> ServerConfig {
            let mut info = ServerConfig::default();
            info.capabilities.tools.get_or_insert_default();
            info
        }

        async fn list_tools(&self, _: Page, _: Context) -> Result<ListToolsResult, ErrorData> {
            answer(async { panic!("it breaks") }).await
        }

        async fn call_tool(
            &self,
            _: CallToolRequestParams,
            _: Context,
        ) -> Result<CallToolResponse, ErrorData> {
            answer(async { Ok(CallToolResult::default().into()) }).await
        }
    }

    #[tokio::test]
    async fn an_answer_that_breaks_is_an_error_and_the_next_one_comes() {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let serving = tokio::spawn(async move { Fragile.serve(far).await.unwrap().waiting().await });
        let client = ().serve(near).await.unwrap();
        let broken = client.list_tools(None).await.unwrap_err();
        assert!(broken.to_string().contains("could not answer this"), "{broken}");
        client.call_tool(CallToolRequestParams::new("any")).await.unwrap();
        client.cancel().await.unwrap();
        serving.await.unwrap().unwrap();
    }
}
