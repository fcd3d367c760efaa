// Keeps the end of the conversation in view while the reader is there. A reader who scrolled up is left alone.

import { useCallback, useLayoutEffect, useRef } from "react";

const NEAR_PX = 48;

/** `isEmpty`: there is nothing to follow yet, and the page starts at its top. */
export function usePinnedScroll(isEmpty: boolean) {
  const area = useRef<HTMLDivElement>(null);
  const content = useRef<HTMLDivElement>(null);
  const isPinned = useRef(true);
  const hasEnd = useRef(false);
  hasEnd.current = !isEmpty;
  const seen = useRef(""); // the sizes after the last change of the layout

  const toEnd = useCallback(() => {
    const element = area.current;
    if (!element) return;
    seen.current = sizesOf(element);
    if (isPinned.current && hasEnd.current) element.scrollTop = element.scrollHeight;
  }, []);

  useLayoutEffect(() => {
    if (!content.current || !area.current) return;
    const observer = new ResizeObserver(toEnd);
    observer.observe(content.current);
    observer.observe(area.current);
    return () => observer.disconnect();
  }, [toEnd]);

  const onScroll = useCallback(() => {
    const element = area.current;
    if (!element) return;
    const isNear = element.scrollHeight - element.scrollTop - element.clientHeight < NEAR_PX;
    // If the sizes have just changed, the browser has scrolled, and not the reader.
    if (isNear || sizesOf(element) === seen.current) isPinned.current = isNear;
  }, []);

  const pin = useCallback(() => {
    isPinned.current = true;
    toEnd();
  }, [toEnd]);

  return { area, content, onScroll, pin };
}

const sizesOf = ({ scrollHeight, clientHeight }: HTMLElement) => `${scrollHeight} ${clientHeight}`;
