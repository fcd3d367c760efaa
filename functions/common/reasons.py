"""Why a query is admitted or a request refused, and alerts, in both languages: the only source of these sentences.

`python -m infra.reasons` writes sql/schemas/04_reasons.sql and the tables of docs/error_codes.md from it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from functions.common.language import Language
from functions.common.provider_keys import PROVIDER_NAMES

Action = Literal[
    "upgrade",
    "buy_pack",
    "update_card",
    "pay_invoice",
    "enable_overage",
    "raise_limit",
    "confirm_email",
    "reconnect_key",
    "wait",
    "contact_support",
    "none",
]


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a query is admitted or an alert is shown (`error` is None), or why a request is refused.

    `error` is the code of the error in common.errors. `en` and `fr` may have placeholders, which the error's details
    fill. `action` is what the user can do, `paying_helps` whether a payment makes the request possible, `ends` what
    ends the refusal otherwise. `sql` is the text that can_user_query and admit_query return; several reasons may have
    the same.
    """

    code: str
    error: str | None
    action: Action
    en: str
    fr: str
    ends: str
    paying_helps: bool = False
    sql: str | None = None

    def sentence(self, language: Language, details: Mapping[str, Any] = MappingProxyType({})) -> str:
        """The sentence for the user. Raises KeyError if `details` has no value for a placeholder."""
        values = dict(details)
        if "provider" in values:
            values["provider"] = PROVIDER_NAMES.get(values["provider"], values["provider"])
        return (self.fr if language == "fr" else self.en).format_map(values)


# fmt: off
REASONS = (
    # What pays for the next query
    Reason(
        "own_key", None, "none", sql="Unlimited (BYOK)", ends="when the key is deleted or rejected",
        en="Your own key pays for the next query.",
        fr="Votre propre clé paie la prochaine requête.",
    ),
    Reason(
        "free_quota", None, "none", sql="Within free tier quota", ends="when the free queries are used",
        en="The next query is one of your free queries.",
        fr="La prochaine requête fait partie de vos requêtes gratuites.",
    ),
    Reason(
        "daily_quota", None, "none", sql="Within daily quota", ends="when the queries of the day are used",
        en="The next query is included in your plan.",
        fr="La prochaine requête est incluse dans votre forfait.",
    ),
    Reason(
        "credits", None, "none", sql="Credits available", ends="when the credits are used",
        en="The next query uses one of your credits.",
        fr="La prochaine requête utilise un de vos crédits.",
    ),
    Reason(
        "overage", None, "none", paying_helps=True, sql="Overage allowed", ends="at the overage limit",
        en="The next query is charged as overage.",
        fr="La prochaine requête sera facturée comme dépassement.",
    ),

    # Nothing pays for the next query
    Reason(
        "account_blocked", "account_blocked", "contact_support", sql="Account blocked", ends="when support lifts it",
        en="Your account is blocked. Contact support.",
        fr="Votre compte est bloqué. Communiquez avec le soutien.",
    ),
    Reason(
        "no_subscription", "payment_required", "upgrade", paying_helps=True, sql="No subscription found",
        ends="when a plan is chosen",
        en="Your account has no plan yet. Choose one to continue.",
        fr="Votre compte n’a pas encore de forfait. Choisissez-en un pour continuer.",
    ),
    Reason(
        "subscription_unpaid", "payment_required", "pay_invoice", paying_helps=True,
        sql="Subscription not active: suspended, past_due", ends="when the invoice is paid",
        en="Your last invoice is not paid. Pay it to continue.",
        fr="Votre dernière facture n’est pas payée. Payez-la pour continuer.",
    ),
    Reason(
        "subscription_paused", "payment_required", "contact_support", paying_helps=True,
        sql="Subscription not active: suspended, past_due", ends="when support collects payments again",
        en="Your subscription is paused, and there is no invoice to pay. Contact support.",
        fr="Votre abonnement est suspendu et il n’y a aucune facture à payer. Communiquez avec le soutien.",
    ),
    Reason(
        "subscription_ended", "payment_required", "upgrade", paying_helps=True,
        sql="Subscription not active: suspended, canceled, past_due", ends="when a plan is chosen",
        en="Your subscription is not active. Choose a plan to continue.",
        fr="Votre abonnement n’est pas actif. Choisissez un forfait pour continuer.",
    ),
    Reason(
        "free_quota_used", "payment_required", "upgrade", paying_helps=True, sql="Free tier quota exhausted",
        ends="when a plan is chosen or credits are bought",
        en="You have used all your free queries. Choose a plan or buy credits to continue.",
        fr="Vous avez utilisé toutes vos requêtes gratuites. Choisissez un forfait ou achetez des crédits pour "
           "continuer.",
    ),
    Reason(
        "credits_used", "payment_required", "buy_pack", paying_helps=True, sql="Daily quota exceeded",
        ends="when credits are bought",
        en="You have no credits that can be used. Buy a credit pack to continue.",
        fr="Vous n’avez aucun crédit utilisable. Achetez un bloc de crédits pour continuer.",
    ),
    Reason(
        "payment_failed", "payment_required", "pay_invoice", paying_helps=True, sql="Daily quota exceeded",
        ends="when the invoice is paid, or credits are bought",
        en="Your last payment failed, so nothing can be charged. Pay the open invoice to continue.",
        fr="Votre dernier paiement a échoué, donc rien ne peut être facturé. Payez la facture ouverte pour continuer.",
    ),
    Reason(
        "daily_quota_used", "quota_exhausted", "wait", sql="Daily quota exceeded",
        ends="at midnight UTC, or when credits are bought",
        en="You have used all queries for today. They return at midnight UTC; with a credit pack you continue now.",
        fr="Vous avez utilisé toutes les requêtes d’aujourd’hui. Elles reviennent à minuit UTC; un bloc de crédits "
           "permet de continuer maintenant.",
    ),
    Reason(
        "daily_quota_used_overage_off", "quota_exhausted", "enable_overage", sql="Daily quota exceeded",
        ends="at midnight UTC, or when overage is turned on",
        en="You have used all queries for today, and overage is off. Turn it on, or wait until midnight UTC.",
        fr="Vous avez utilisé toutes les requêtes d’aujourd’hui et le dépassement est désactivé. Activez-le ou "
           "attendez minuit UTC.",
    ),
    Reason(
        "no_quota", "quota_exhausted", "buy_pack", sql="Daily quota exceeded",
        ends="when support raises the quota, or credits are bought",
        en="Your account includes no queries at the moment. Buy a credit pack to continue.",
        fr="Votre compte ne comprend aucune requête pour le moment. Achetez un bloc de crédits pour continuer.",
    ),
    Reason(
        "overage_off", "quota_exhausted", "enable_overage", sql="Daily quota exceeded",
        ends="when overage is turned on, or credits are bought",
        en="Your account includes no queries, and overage is off. Turn it on to continue.",
        fr="Votre compte ne comprend aucune requête et le dépassement est désactivé. Activez-le pour continuer.",
    ),
    Reason(
        "overage_limit_reached", "overage_limit_reached", "raise_limit", sql="Overage limit reached",
        ends="when the limit is raised or resets",
        en="Your overage limit for this period is reached. Raise it to continue.",
        fr="Votre limite de dépassement pour cette période est atteinte. Augmentez-la pour continuer.",
    ),

    Reason(
        "overage_unpaid", "payment_required", "pay_invoice", paying_helps=True, sql="Overage limit reached",
        ends="when the invoice is paid, or credits are bought",
        en="You have not paid for queries beyond your plan. Pay the open invoice to continue.",
        fr="Vous n’avez pas payé des requêtes hors forfait. Payez la facture ouverte pour continuer.",
    ),
    Reason(
        "overage_ceiling_reached", "overage_limit_reached", "wait", sql="Overage limit reached",
        ends="when the limit resets, or credits are bought",
        en="The highest overage limit that your account may have is reached. With a credit pack you continue now.",
        fr="La limite de dépassement la plus élevée permise pour votre compte est atteinte. Un bloc de crédits permet "
           "de continuer maintenant.",
    ),
    Reason(
        "overage_without_invoice", "overage_limit_reached", "contact_support", sql="Overage limit reached",
        ends="when support raises the limit, or credits are bought",
        en="You have not paid for queries beyond your plan, and there is no invoice to pay. Contact support.",
        fr="Vous n’avez pas payé des requêtes hors forfait et il n’y a aucune facture à payer. Communiquez avec le "
           "soutien.",
    ),
    Reason(
        "overage_returned", "overage_limit_reached", "contact_support", sql="Overage limit reached",
        ends="when the dispute is won, support raises the limit, or credits are bought",
        en="A payment of yours for queries beyond your plan was refunded or is disputed. Contact support.",
        fr="Un de vos paiements pour des requêtes hors forfait a été remboursé ou est contesté. Communiquez avec le "
           "soutien.",
    ),

    # Limits besides the funding
    Reason(
        "too_many_queries", "too_many_requests", "wait", sql="Too many queries at once",
        ends="when one of the running answers ends",
        en="As many questions of yours as your plan allows are being answered. Wait for one of them, or stop it.",
        fr="Vous avez autant de réponses en cours que votre forfait le permet. Attendez la fin de l’une d’elles ou "
           "arrêtez-la.",
    ),
    Reason(
        "too_many_failures", "too_many_requests", "wait", sql="Too many failed queries today", ends="at midnight UTC",
        en="Too many of your questions failed today and were not charged. You can ask again after midnight UTC.",
        fr="Trop de vos questions ont échoué aujourd’hui sans être facturées. Vous pourrez en poser d’autres après "
           "minuit UTC.",
    ),
    Reason(
        "free_answers_off", "too_many_requests", "wait", sql="Free answers are off today",
        ends="at midnight UTC, or with a paid plan",
        en="Free answers are used up for today. They return at midnight UTC; a paid plan answers now.",
        fr="Les réponses gratuites d’aujourd’hui sont épuisées. Elles reviennent à minuit UTC; un forfait payant "
           "répond maintenant.",
    ),
    Reason(
        "too_many_tool_calls", "too_many_requests", "wait", sql="Too many tool calls", ends="with the minute",
        en="Your assistant has called as many tools as a minute allows. Wait a moment.",
        fr="Votre assistant a appelé autant d’outils qu’une minute le permet. Attendez un moment.",
    ),
    Reason(
        "chat_paused", "unavailable", "wait", sql="Chat paused", ends="when an operator ends the pause",
        en="The chat is paused, so the request was refused and nothing was charged. Please try again later.",
        fr="Le clavardage est suspendu. La demande a donc été refusée et rien n’a été facturé. Veuillez réessayer plus "
           "tard.",
    ),
    Reason(
        "provider_paused", "provider_overloaded", "wait", sql="Provider paused",
        ends="when an operator ends the pause",
        en="The models of {provider} are paused. Nothing was charged; choose another provider or try again later.",
        fr="Les modèles d’{provider} sont suspendus. Rien n’a été facturé; choisissez un autre fournisseur ou "
           "réessayez plus tard.",
    ),
    Reason(
        "sign_ups_paused", "forbidden", "wait", ends="when an operator ends the pause",
        en="New accounts cannot be created at the moment. Please try again later.",
        fr="Il n’est pas possible de créer un compte pour le moment. Veuillez réessayer plus tard.",
    ),

    # Alerts of GET /usage
    Reason(
        "quota_nearly_used", None, "none", ends="when the quota resets",
        en="You have used at least 80% of your included queries.",
        fr="Vous avez utilisé au moins 80 % de vos requêtes incluses.",
    ),
    Reason(
        "quota_used", None, "none", ends="when the quota resets",
        en="You have used all your included queries.",
        fr="Vous avez utilisé toutes vos requêtes incluses.",
    ),
    Reason(
        "overage_nearly_used", None, "raise_limit", ends="when the limit is raised or resets",
        en="Your overage of this period is at least 80% of your limit.",
        fr="Votre dépassement pour cette période atteint au moins 80 % de votre limite.",
    ),
    Reason(
        "overage_used", None, "raise_limit", ends="when the limit is raised or resets",
        en="Your overage limit of this period allows no further query.",
        fr="Votre limite de dépassement pour cette période ne permet aucune autre requête.",
    ),
    Reason(
        "credits_nearly_used", None, "buy_pack", paying_helps=True, ends="when credits are bought",
        en="You have used at least 80% of your credits.",
        fr="Vous avez utilisé au moins 80 % de vos crédits.",
    ),
    Reason(
        "all_credits_used", None, "buy_pack", paying_helps=True, ends="when credits are bought",
        en="You have used all your credits.",
        fr="Vous avez utilisé tous vos crédits.",
    ),

    # The account
    Reason(
        "export_repeated", "too_many_requests", "wait", ends="a minute after the last attempt",
        en="Your data was requested less than a minute ago. Please wait a moment.",
        fr="Vos données ont été demandées il y a moins d’une minute. Veuillez attendre un moment.",
    ),
    Reason(
        "unauthenticated", "unauthenticated", "none", ends="with a new sign-in",
        en="Sign in again: the access token is missing, expired or not valid.",
        fr="Reconnectez-vous, car le jeton d’accès est absent, expiré ou non valide.",
    ),
    Reason(
        "email_not_confirmed", "email_not_confirmed", "confirm_email", ends="when the e-mail address is confirmed",
        en="Confirm the e-mail address of your account to use your free queries.",
        fr="Confirmez l’adresse courriel de votre compte pour utiliser vos requêtes gratuites.",
    ),
    Reason(
        "invoice_open", "payment_required", "pay_invoice", paying_helps=True, ends="when the invoice is paid",
        en="You have an open invoice. Pay it before you choose a plan.",
        fr="Vous avez une facture ouverte. Payez-la avant de choisir un forfait.",
    ),
    Reason(
        "deletion_unpaid", "payment_required", "pay_invoice", paying_helps=True, ends="when the invoice is paid",
        en="You have an open invoice for queries beyond your plan. Pay it, then delete your account.",
        fr="Vous avez une facture ouverte pour des requêtes hors forfait. Payez-la, puis supprimez votre compte.",
    ),
    Reason(
        "forbidden", "forbidden", "none", ends="never",
        en="You are not allowed to do this.",
        fr="Vous n’êtes pas autorisé à faire cela.",
    ),
    Reason(
        "old_sign_in", "forbidden", "none", ends="with a new sign-in",
        en="Sign in again to delete your account: the last sign-in is over five minutes ago.",
        fr="Reconnectez-vous pour supprimer votre compte, car la dernière connexion date de plus de cinq minutes.",
    ),
    Reason(
        "subscription_live", "forbidden", "contact_support", ends="when the subscription is canceled",
        en="The account still has a subscription at Stripe, so it was not deleted. Repeat it, or contact support.",
        fr="Le compte a encore un abonnement chez Stripe, il n’a donc pas été supprimé. Réessayez ou communiquez avec "
           "le soutien.",
    ),
    Reason(
        "overage_owed", "forbidden", "contact_support", ends="when the overage is paid or written off",
        en="The account owes overage for which there is no invoice to pay, so it was not deleted. Contact support.",
        fr="Le compte doit un dépassement pour lequel il n’y a aucune facture à payer, il n’a donc pas été supprimé. "
           "Communiquez avec le soutien.",
    ),

    # Own keys
    Reason(
        "byok_not_allowed", "byok_not_allowed", "upgrade", paying_helps=True, ends="with a plan that allows own keys",
        en="Your plan does not include using your own API keys. Upgrade to use one.",
        fr="Votre forfait ne permet pas d’utiliser vos propres clés d’API. Passez à un forfait supérieur pour en "
           "utiliser une.",
    ),
    Reason(
        "byok_key_rejected", "byok_key_rejected", "reconnect_key", ends="with another key, or without one",
        en="{provider} does not accept your own key. Store another one, or delete it to use your plan's queries.",
        fr="{provider} n’accepte pas votre propre clé. Enregistrez-en une autre ou supprimez-la pour utiliser les "
           "requêtes de votre forfait.",
    ),
    Reason(
        "byok_key_not_stored", "byok_key_rejected", "reconnect_key", ends="with another key",
        en="{provider} does not accept this key, so it was not stored.",
        fr="{provider} n’accepte pas cette clé, elle n’a donc pas été enregistrée.",
    ),
    Reason(
        "byok_key_unreadable", "byok_key_rejected", "reconnect_key", ends="when the key is stored again or deleted",
        en="Your own API key can no longer be decrypted. Store it again, or delete it.",
        fr="Votre propre clé d’API ne peut plus être déchiffrée. Enregistrez-la de nouveau ou supprimez-la.",
    ),
    Reason(
        "byok_balance_exhausted", "byok_balance_exhausted", "reconnect_key",
        ends="with credit at the provider, another key, or without a key",
        en="Your own {provider} account has no credit left. Add some there, or delete your key here to use your plan's "
           "queries.",
        fr="Votre propre compte {provider} n’a plus de crédit. Ajoutez-en chez le fournisseur ou supprimez votre clé "
           "ici pour utiliser les requêtes de votre forfait.",
    ),
    Reason(
        "byok_rate_limited", "too_many_requests", "wait", ends="when the provider's limit resets",
        en="Your own {provider} account is at its rate limit. Please try again in a moment.",
        fr="Votre propre compte {provider} a atteint sa limite de débit. Veuillez réessayer dans un moment.",
    ),
    Reason(
        "byok_not_permitted", "provider_error", "reconnect_key", ends="with other permissions, or without the key",
        en="{provider} does not allow this request to your own account. Nothing was charged, and your key is kept. "
           "Check its permissions and your account there, or delete the key here to use your plan's queries.",
        fr="{provider} ne permet pas cette demande à votre propre compte. Rien n’a été facturé et votre clé est "
           "conservée. Vérifiez ses autorisations et votre compte chez le fournisseur ou supprimez la clé ici pour "
           "utiliser les requêtes de votre forfait.",
    ),

    # Models and providers
    Reason(
        "model_not_available", "model_not_available", "none", ends="with another model",
        en="Your plan does not include this model.",
        fr="Votre forfait ne comprend pas ce modèle.",
    ),
    Reason(
        "model_not_in_plan", "model_not_available", "none", ends="with another model",
        en="Your plan does not include this model. It has these models of {provider}: {models}.",
        fr="Votre forfait ne comprend pas ce modèle. Il comprend ces modèles d’{provider} : {models}.",
    ),
    Reason(
        "model_of_other_plan", "model_not_available", "upgrade", paying_helps=True, ends="with another model or plan",
        en="Your plan does not include this model, another plan does. Yours has these models of {provider}: {models}.",
        fr="Votre forfait ne comprend pas ce modèle, un autre le comprend. Le vôtre a ces modèles d’{provider} : "
           "{models}.",
    ),
    Reason(
        "no_models", "model_not_available", "none", ends="with another provider",
        en="Your plan has no models of {provider}. Choose another provider.",
        fr="Votre forfait n’a aucun modèle d’{provider}. Choisissez un autre fournisseur.",
    ),
    Reason(
        "provider_not_available", "model_not_available", "none", ends="with another provider",
        en="Models of {provider} are not available here. Choose another provider.",
        fr="Les modèles d’{provider} ne sont pas offerts ici. Choisissez un autre fournisseur.",
    ),
    Reason(
        "model_gone", "model_not_available", "none", ends="with another model",
        en="{provider} does not offer {model} any more. Nothing was charged; choose another.",
        fr="{provider} n’offre plus {model}. Rien n’a été facturé; choisissez un autre modèle.",
    ),
    Reason(
        "byok_model_gone", "model_not_available", "none", ends="with another model",
        en="Your own {provider} account does not have the model {model}. Your key is accepted. Nothing was charged; "
           "choose another model.",
        fr="Votre propre compte {provider} n’a pas le modèle {model}. Votre clé est acceptée. Rien n’a été facturé; "
           "choisissez un autre modèle.",
    ),
    Reason(
        "provider_error", "provider_error", "wait", ends="often at the next attempt",
        en="The model provider failed to answer. Nothing was charged; please try again.",
        fr="Le fournisseur du modèle n’a pas répondu. Rien n’a été facturé; veuillez réessayer.",
    ),
    Reason(
        "prompt_refused", "provider_error", "none", ends="with a shorter question",
        en="This question is too long for the model. Nothing was charged; ask a shorter one.",
        fr="Cette question est trop longue pour le modèle. Rien n’a été facturé; posez-en une plus courte.",
    ),
    Reason(
        "question_too_long", "invalid_request", "none", ends="with a shorter question",
        en="The question is too long for the models of your plan. Please shorten it.",
        fr="La question est trop longue pour les modèles de votre forfait. Veuillez la raccourcir.",
    ),
    Reason(
        "answer_failed", "provider_error", "wait", ends="often at the next attempt",
        en="This answer failed. Nothing was charged; please try again.",
        fr="Cette réponse a échoué. Rien n’a été facturé; veuillez réessayer.",
    ),
    Reason(
        "provider_overloaded", "provider_overloaded", "wait", ends="when the provider has capacity",
        en="The model provider is overloaded. Nothing was charged; please try again in a moment.",
        fr="Le fournisseur du modèle est surchargé. Rien n’a été facturé; veuillez réessayer dans un moment.",
    ),
    Reason(
        "provider_timeout", "provider_timeout", "wait", ends="often at the next attempt",
        en="The model provider took too long. Nothing was charged; please try again.",
        fr="Le fournisseur du modèle a mis trop de temps. Rien n’a été facturé; veuillez réessayer.",
    ),

    # The same message, and the running answer
    Reason(
        "request_in_progress", "request_in_progress", "wait", ends="when the answer is complete",
        en="This message is already being answered.",
        fr="Une réponse à ce message est déjà en cours.",
    ),
    Reason(
        "conflict", "conflict", "none", ends="with a new message id",
        en="This message id was used before with other words. Send the message with a new id.",
        fr="Cet identifiant de message a déjà servi avec d’autres mots. Envoyez le message avec un nouvel identifiant.",
    ),
    Reason(
        "already_answered", "already_answered", "none", ends="with a new message",
        en="This message was already answered and the answer was not stored. Send it as a new message to ask again.",
        fr="Ce message a déjà reçu une réponse, qui n’a pas été conservée. Envoyez-le comme nouveau message pour "
           "reposer la question.",
    ),
    Reason(
        "too_many_followers", "too_many_requests", "wait", ends="when one of the readers leaves",
        en="Three other tabs or devices are reading this answer. Close one of them, or open the conversation later.",
        fr="Trois autres onglets ou appareils lisent cette réponse. Fermez-en un ou ouvrez la conversation plus tard.",
    ),
    Reason(
        "end_not_received", "unavailable", "none", ends="when the conversation is opened again",
        en="The end of this answer could not be sent here. Open the conversation again to see what was stored.",
        fr="La fin de cette réponse n’a pas pu être envoyée ici. Ouvrez de nouveau la conversation pour voir ce qui a "
           "été conservé.",
    ),

    # Requests
    Reason(
        "invalid_json", "invalid_json", "none", ends="with another body",
        en="The request body is not valid JSON.",
        fr="Le corps de la demande n’est pas du JSON valide.",
    ),
    Reason(
        "json_too_deep", "invalid_json", "none", ends="with another body",
        en="The request body is nested too deeply.",
        fr="Le corps de la demande a trop de niveaux imbriqués.",
    ),
    Reason(
        "not_an_http_request", "not_an_http_request", "none", ends="never",
        en="This function answers HTTP requests to its URL. The event that invoked it is not one.",
        fr="Cette fonction répond aux requêtes HTTP envoyées à son adresse. L’événement reçu n’en est pas une.",
    ),
    Reason(
        "invalid_signature", "invalid_signature", "none", ends="with another signature",
        en="The Stripe-Signature header does not match this body, or is not from the last five minutes.",
        fr="L’en-tête Stripe-Signature ne correspond pas à ce corps ou date de plus de cinq minutes.",
    ),
    Reason(
        "too_large", "too_large", "none", ends="with a smaller body",
        en="The request body is over {limit_kib:,} KiB.",
        fr="Le corps de la demande dépasse {limit_kib} Kio.",
    ),
    Reason(
        "export_too_large", "too_large", "contact_support", ends="when support sends a copy",
        en="Your data is too large for one download. In a minute, accept it compressed (gzip), or ask support for a "
           "copy.",
        fr="Vos données sont trop volumineuses pour un seul téléchargement. Dans une minute, acceptez-les compressées "
           "(gzip) ou demandez une copie au soutien.",
    ),
    Reason(
        "conversation_too_large", "too_large", "none", ends="with a shorter conversation",
        en="This conversation is too large to be shared.",
        fr="Cette conversation est trop longue pour être partagée.",
    ),
    Reason(
        "invalid_request", "invalid_request", "none", ends="with other fields",
        en="The request is not valid; see fields.",
        fr="La demande n’est pas valide; voir les champs.",
    ),
    Reason(
        "not_found", "not_found", "none", ends="never",
        en="This was not found.",
        fr="Ceci est introuvable.",
    ),
    Reason(
        "conversation_not_found", "not_found", "none", ends="never",
        en="There is no such conversation.",
        fr="Cette conversation n’existe pas.",
    ),
    Reason(
        "not_shared", "not_found", "none", ends="with a new link",
        en="This conversation is not shared, or the link has expired.",
        fr="Cette conversation n’est pas partagée ou le lien a expiré.",
    ),
    Reason(
        "pack_not_found", "not_found", "none", ends="with a pack that is sold",
        en="There is no such credit pack.",
        fr="Ce bloc de crédits n’existe pas.",
    ),
    Reason(
        "user_not_found", "not_found", "none", ends="never",
        en="There is no such user.",
        fr="Cette personne n’existe pas.",
    ),
    Reason(
        "query_not_found", "not_found", "none", ends="when the query ends",
        en="There is no ended query with this id.",
        fr="Aucune requête terminée ne porte cet identifiant.",
    ),
    Reason(
        "nothing_bought", "not_found", "upgrade", paying_helps=True, ends="with the first purchase",
        en="You have not bought anything yet, so there is nothing to manage.",
        fr="Vous n’avez encore rien acheté, il n’y a donc rien à gérer.",
    ),
    Reason(
        "method_not_allowed", "method_not_allowed", "none", ends="never",
        en="This address does not support this HTTP method.",
        fr="Cette adresse n’accepte pas cette méthode HTTP.",
    ),

    # Our own failures
    Reason(
        "internal", "internal", "contact_support", ends="when the fault is repaired",
        en="Something went wrong on our side. Nothing was charged; please try again, or contact support.",
        fr="Un problème est survenu de notre côté. Rien n’a été facturé; veuillez réessayer ou communiquer avec le "
           "soutien.",
    ),
    Reason(
        "unavailable", "unavailable", "wait", sql="Timed out", ends="when the database can be reached",
        en="Our database cannot be reached, so the request was refused and nothing was charged. Please try again.",
        fr="Notre base de données est inaccessible. La demande a donc été refusée et rien n’a été facturé. Veuillez "
           "réessayer.",
    ),
    Reason(
        "payment_unavailable", "payment_unavailable", "wait", ends="when Stripe can be reached",
        en="Our payment provider cannot be reached, and nothing was charged. Please try again in a moment.",
        fr="Notre fournisseur de paiement est inaccessible et rien n’a été facturé. Veuillez réessayer dans un moment.",
    ),
    Reason(
        "currency_differs", "payment_unavailable", "contact_support", ends="when support has ended what is in it",
        en="You have a subscription or an open bill in another currency, so this cannot be bought now. Nothing was "
        "charged. Contact support.",
        fr="Vous avez un abonnement ou un solde dans une autre monnaie : l’achat est impossible pour l’instant. Rien "
        "n’a été débité. Communiquez avec le soutien.",
    ),
    Reason(
        "price_differs", "payment_unavailable", "wait", ends="when the price is published",
        en="This price is being changed, so it cannot be bought now. Nothing was charged; please try again later.",
        fr="Ce prix est en cours de modification, l’achat est donc impossible pour le moment. Rien n’a été facturé; "
           "veuillez réessayer plus tard.",
    ),
)
# fmt: on

BY_CODE: Mapping[str, Reason] = {reason.code: reason for reason in REASONS}
