// The questions and answers, and why the last question has no answer.

import type { ChatMessage } from "../../lib/index.ts";
import { Share } from "../conversations/Share.tsx";
import { chat as texts } from "../words/chat.ts";
import { useWords } from "../words/words.ts";
import { Announcer } from "./Announcer.tsx";
import { Answer } from "./Answer.tsx";
import { languageOf } from "./languageOf.ts";
import { textOf } from "./messages.ts";
import { Refusal } from "./Refusal.tsx";
import { Thinking } from "./Thinking.tsx";
import "./answer.css";
import type { ConversationState } from "./useConversation.ts";

type Props = { conversation: ConversationState; onEdit: (messageId: string) => void; onDismiss: () => void };

export default function MessageList({ conversation, onEdit, onDismiss }: Props) {
  const words = useWords(texts);
  const { messages, isActive, link } = conversation;
  const last = messages.at(-1);
  const isThinking = isActive && !(last?.role === "assistant" && textOf(last));
  return (
    <>
      <Announcer message={last} isGrowing={isActive} />
      {conversation.before !== null && (
        <button type="button" onClick={() => void conversation.earlier()}>
          {words.earlier}
        </button>
      )}
      <ol className="messages">
        {messages.map((message) =>
          message.role === "user" ? (
            <Question key={message.id} message={message} onEdit={isActive ? undefined : () => onEdit(message.id)} />
          ) : (
            <Answer
              key={message.id}
              message={message}
              share={message === last && <Share chatId={conversation.id} conversationId={conversation.stored?.id} />}
              isGrowing={message === last && isActive}
              stopped={conversation.stops.get(message.id) ?? (message === last ? "stopped" : null)}
              isLast={message === last}
              isExplained={message === last && link.problem !== null}
              onRegenerate={
                message === last && !link.problem ? () => void conversation.regenerate(message.id) : undefined
              }
            />
          ),
        )}
      </ol>
      {isThinking && <Thinking message={last?.role === "assistant" ? last : null} />}
      {link.state === "lost" && !isActive && (
        <p className="ending">
          {words.lostLine}{" "}
          <button type="button" onClick={() => void conversation.askAgain()}>
            {words.askAgain}
          </button>
        </p>
      )}
      {link.problem && (
        <Refusal
          error={link.problem}
          of={!last ? "conversation" : last.role === "user" ? "question" : "answer"}
          onAgain={() => void conversation.again()}
          onDismiss={onDismiss}
        />
      )}
    </>
  );
}

function Question({ message, onEdit }: { message: ChatMessage; onEdit: (() => void) | undefined }) {
  const words = useWords(texts);
  const text = textOf(message);
  return (
    <li className="question" data-role="user">
      <span className="hidden">{words.you}</span>
      <p lang={languageOf(text)}>{text}</p>
      {onEdit && (
        <button type="button" className="plain" onClick={onEdit}>
          {words.edit}
        </button>
      )}
    </li>
  );
}
