//! What rmcp asks of a server, handed on to where it is done.

use std::sync::{Arc, OnceLock};

use action::Environment;
use gateway::Caller;
use gateway::upstream::{Party, Server};
use rmcp::ServerHandler;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CancelTaskParams, CancelledNotificationParam,
    ClientNotification, CompleteRequestParams, CompleteResult, CustomNotification, CustomRequest,
    CustomResult, DiscoverResult, ErrorData, GetPromptRequestParams, GetPromptResponse,
    GetSkillRequestParams, GetSkillResult, GetTaskParams, GetTaskResult, Implementation,
    InitializeRequestParams, InitializeResult, ListPromptsResult, ListResourceTemplatesResult,
    ListResourcesResult, ListSkillsResult, ListToolsResult, PaginatedRequestParams, ProtocolVersion,
    ReadResourceDirectoryRequestParams, ReadResourceRequestParams, ReadResourceResponse,
    RootsListChangedNotification, ServerConfig, SetLevelRequestParams, SubscribeRequestParams,
    SubscriptionFilter, TASKS_EXTENSION_ID, Tool, UnsubscribeRequestParams, UpdateTaskParams,
};
use rmcp::service::{NotificationContext, RequestContext, RoleServer, SubscriptionContext};

use super::Mcp;
use super::custom::may_pass;
use super::party::{Seated, Session, Stateless};
use super::scope::Scope;
use super::visit::Visit;

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
    pub(super) fn party(&self, context: &Context) -> Result<Arc<dyn Party>, ErrorData> {
        if let Some(session) = self.session() {
            return Ok(Arc::clone(session) as Arc<dyn Party>);
        }
        let owner = self.owner(&Visit::of(&context.extensions)?.caller);
        let client = (
            context.client_info().unwrap_or_else(|| Implementation::new("unknown", "0")),
            context.client_capabilities().unwrap_or_default(),
        );
        let input = self.scope.gateway.mcp_settings().input();
        Ok(Arc::new(Stateless::new(&self.mcp.desk, &owner, client, input)))
    }

    /// Who asks: what one may have, others may not take up.
    pub(super) fn owner(&self, caller: &Caller) -> String {
        owner(self.scope.gateway.environment(), caller)
    }

    fn seat(&self, greeting: &InitializeRequestParams, context: &Context) {
        let Ok(visit) = Visit::of(&context.extensions) else { return };
        let session = Session::new(
            context.peer.clone(),
            self.owner(&visit.caller),
            (greeting.client_info.clone(), greeting.capabilities.clone()),
            self.scope.gateway.mcp_settings().input(),
        );
        let _ = self.seated.set(Seated::new(&self.scope.gateway, session));
    }

    async fn pass_word(&self, notification: ClientNotification, to: impl Fn(&Server) -> bool) {
        let Some(session) = self.session() else { return };
        let party = Arc::clone(session) as Arc<dyn Party>;
        for server in self.scope.servers().iter().filter(|server| to(server)) {
            server.tell(&party, notification.clone()).await;
        }
    }
}

/// Names who asks, in which environment.
pub(super) fn owner(environment: Environment, caller: &Caller) -> String {
    serde_json::json!([environment.as_str(), caller.tenant.as_str(), caller.subject.as_str()]).to_string()
}

/// Whether the request is one of 2026-07-28 or later.
pub(super) fn is_stateless(context: &Context) -> bool {
    context.protocol_version().is_some_and(|version| !version.has_initialize())
}

impl ServerHandler for Face {
    fn get_info(&self) -> ServerConfig {
        self.mcp.shown.last(&self.scope)
    }

    async fn initialize(
        &self,
        greeting: InitializeRequestParams,
        context: Context,
    ) -> Result<InitializeResult, ErrorData> {
        context.peer.set_peer_info(greeting.clone());
        self.mcp.shown.look(&self.scope).await;
        self.seat(&greeting, &context);
        let mut answer = self.negotiate_initialize(&greeting)?;
        // Its revision has tasks of another kind.
        if let Some(extensions) = &mut answer.capabilities.extensions {
            extensions.remove(TASKS_EXTENSION_ID);
        }
        answer.capabilities.extensions.take_if(|extensions| extensions.is_empty());
        Ok(answer)
    }

    async fn discover(&self, _: Context) -> Result<DiscoverResult, ErrorData> {
        let versions = ProtocolVersion::KNOWN_VERSIONS.to_vec();
        Ok(DiscoverResult::from_server_info(versions, self.mcp.shown.look(&self.scope).await))
    }

    async fn list_tools(&self, asked: Page, context: Context) -> Result<ListToolsResult, ErrorData> {
        self.tools(asked, &context).await
    }

    async fn call_tool(
        &self,
        asked: CallToolRequestParams,
        context: Context,
    ) -> Result<CallToolResponse, ErrorData> {
        self.call(asked, &context).await
    }

    /// What headers are held against; known as soon as its server has listed it once.
    fn get_tool(&self, name: &str) -> Option<Tool> {
        let (server, name) = self.scope.inward(name)?;
        let tools = server.known_tools()?;
        tools.iter().find(|seen| seen.tool.name == name).map(|seen| seen.tool.clone())
    }

    async fn list_prompts(&self, asked: Page, context: Context) -> Result<ListPromptsResult, ErrorData> {
        self.prompts(asked, &context).await
    }

    async fn get_prompt(
        &self,
        asked: GetPromptRequestParams,
        context: Context,
    ) -> Result<GetPromptResponse, ErrorData> {
        self.prompt(asked, &context).await
    }

    async fn list_resources(&self, asked: Page, context: Context) -> Result<ListResourcesResult, ErrorData> {
        self.resources(asked, &context).await
    }

    async fn list_resource_templates(
        &self,
        asked: Page,
        context: Context,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        self.templates(asked, &context).await
    }

    async fn read_resource(
        &self,
        asked: ReadResourceRequestParams,
        context: Context,
    ) -> Result<ReadResourceResponse, ErrorData> {
        self.resource(asked, &context).await
    }

    async fn complete(
        &self,
        asked: CompleteRequestParams,
        context: Context,
    ) -> Result<CompleteResult, ErrorData> {
        self.completion(asked, &context).await
    }

    async fn set_level(&self, asked: SetLevelRequestParams, context: Context) -> Result<(), ErrorData> {
        self.log_level(asked, &context).await
    }

    async fn subscribe(&self, asked: SubscribeRequestParams, context: Context) -> Result<(), ErrorData> {
        self.follow(&asked.uri, &context).await
    }

    async fn unsubscribe(&self, asked: UnsubscribeRequestParams, context: Context) -> Result<(), ErrorData> {
        self.unfollow(&asked.uri, &context).await
    }

    /// All of it, as far as the servers have it: rmcp cuts it to what is shown of them.
    fn accepted_subscription_filter(&self, requested: &SubscriptionFilter) -> Option<SubscriptionFilter> {
        Some(requested.clone())
    }

    async fn listen(&self, subscription: SubscriptionContext) -> Result<(), ErrorData> {
        self.hear(subscription).await
    }

    async fn get_task(&self, asked: GetTaskParams, context: Context) -> Result<GetTaskResult, ErrorData> {
        self.task(&asked, &context).await
    }

    async fn update_task(&self, asked: UpdateTaskParams, context: Context) -> Result<(), ErrorData> {
        self.task_answer(&asked, &context).await
    }

    async fn cancel_task(&self, asked: CancelTaskParams, context: Context) -> Result<(), ErrorData> {
        self.task_end(&asked, &context).await
    }

    async fn list_skills(&self, asked: Page, context: Context) -> Result<ListSkillsResult, ErrorData> {
        self.skills(asked, &context).await
    }

    async fn get_skill(
        &self,
        asked: GetSkillRequestParams,
        context: Context,
    ) -> Result<GetSkillResult, ErrorData> {
        self.skill(asked, &context).await
    }

    async fn read_resource_directory(
        &self,
        asked: ReadResourceDirectoryRequestParams,
        context: Context,
    ) -> Result<ListResourcesResult, ErrorData> {
        self.directory(asked, &context).await
    }

    async fn on_custom_request(
        &self,
        request: CustomRequest,
        context: Context,
    ) -> Result<CustomResult, ErrorData> {
        self.custom(request, &context).await
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

    async fn on_roots_list_changed(&self, _: Heard) {
        self.pass_word(RootsListChangedNotification::default().into(), |_| true).await;
    }

    async fn on_custom_notification(&self, notification: CustomNotification, _: Heard) {
        let CustomNotification { method, params, .. } = notification;
        let takes = |server: &Server| may_pass(server, &method);
        self.pass_word(CustomNotification::new(method.clone(), params).into(), takes).await;
    }
}
