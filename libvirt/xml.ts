import { DOMParser, type Element, type Node, XMLSerializer } from '@xmldom/xmldom';

export type { Element } from '@xmldom/xmldom';

/** XML that is not what it should be; the message names what is wrong. */
export class DomainXmlError extends Error {
  override readonly name = 'DomainXmlError';
}

/** libvirt takes no longer text. */
const MAX_CHARACTERS = 0x400000;
/** libxml2's own limit, which libvirt's XML parser keeps to. */
const MAX_DEPTH = 256;

const FORBIDDEN = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]/;

/**
 * Reads an XML text and gives its root. Never trusts it: no document type (so no entities), nothing malformed, nothing that
 * only some parsers forgive.
 */
export function parseXml(text: string, rootName: string): Element {
  if (text.length > MAX_CHARACTERS) throw new DomainXmlError(`the XML has ${text.length} characters, too many`);
  const references = text.replaceAll(/&#(?:x([0-9a-f]{1,8})|(\d{1,10}));/gi, (_, hex?: string, decimal?: string) => {
    const code = hex === undefined ? Number(decimal) : Number.parseInt(hex, 16);
    return code > 0x10ffff ? '\u0000' : String.fromCodePoint(code);
  });
  if (FORBIDDEN.test(references)) throw new DomainXmlError('the XML holds a control character');
  const root = parseStrictly(text);
  if (root.tagName !== rootName) throw new DomainXmlError(`the XML is <${root.tagName}>, not <${rootName}>`);
  refuseDepth(root);
  return root;
}

function parseStrictly(text: string): Element {
  let complaint = '';
  try {
    const document = new DOMParser({
      onError: (_, message) => {
        complaint ||= message.split('\n', 1)[0] ?? '';
        throw new Error(message);
      },
      // XML 1.0; the default would also turn U+0085 and U+2028 into newlines
      normalizeLineEndings: (source) => source.replaceAll(/\r\n?/g, '\n'),
    }).parseFromString(text, 'text/xml');
    if (document.doctype !== null) {
      complaint = 'it has a document type (<!DOCTYPE>), which libvirt never writes';
      throw new Error(complaint);
    }
    if (document.documentElement === null) throw new Error('missing root element');
    return document.documentElement;
  } catch (error) {
    throw new DomainXmlError(`the XML is malformed: ${complaint || (error as Error).message}`, { cause: error });
  }
}

/** Without recursion, which is what depth would break; the serializer recurses. */
function refuseDepth(root: Element): void {
  let depth = 1;
  for (let node: Node | null = root; node !== null;) {
    if (node.firstChild !== null) {
      node = node.firstChild;
      if (++depth > MAX_DEPTH) throw new DomainXmlError(`the XML is nested more than ${MAX_DEPTH} deep`);
      continue;
    }
    while (node !== null && node !== root && node.nextSibling === null) {
      node = node.parentNode;
      depth -= 1;
    }
    node = node === root || node === null ? null : node.nextSibling;
  }
}

export const serializeXml = (node: Node): string => new XMLSerializer().serializeToString(node);

/** Child elements, all or those of one name. */
export function children(parent: Element | undefined, name?: string): Element[] {
  if (parent === undefined) return [];
  return [...parent.childNodes].filter(
    (node): node is Element => node.nodeType === node.ELEMENT_NODE && (name === undefined || node.nodeName === name),
  );
}

/** The one element at a path of names below `parent`. Throws when one of them is there twice: which is meant? */
export function child(parent: Element | undefined, ...path: [string, ...string[]]): Element | undefined {
  let found = parent;
  for (const name of path) {
    const all = children(found, name);
    if (all.length > 1) throw new DomainXmlError(`<${found?.tagName ?? ''}> has ${all.length} <${name}> elements`);
    found = all[0];
  }
  return found;
}

export const attribute = (element: Element | undefined, name: string): string | null =>
  element?.getAttribute(name) ?? null;

export const text = (element: Element | undefined): string | null => element?.textContent?.trim() ?? null;

/** Text as it may stand in XML, between tags or in an attribute. */
export const escapeXml = (value: string): string =>
  value.replaceAll(/[&<>"'\n\r\t]/g, (character) => `&#${character.codePointAt(0)};`);

export function removeElement(element: Element): void {
  element.parentNode?.removeChild(element);
}
