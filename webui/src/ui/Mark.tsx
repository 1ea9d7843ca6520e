import icon from "../icon.svg";

export function Mark() {
  return (
    <a className="mark" href="#/">
      <img src={icon} width={24} height={24} alt="" />
      penstock
    </a>
  );
}
